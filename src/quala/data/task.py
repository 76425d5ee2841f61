"""What a model is asked: its kind, its output distributions, its loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from quala.data.batch import Batch
from quala.errors import QualaError, unknown

TaskKind = Literal["question-answering", "classification", "regression"]


@dataclass(frozen=True, slots=True)
class Task:
    """A task: `num_labels` is 2 for spans, C for classes, 1 for regression.

    `metric` names the primary metric. Raises QualaError for kinds and sizes that do not fit.
    """

    kind: TaskKind
    num_labels: int
    metric: str

    def __post_init__(self) -> None:
        if self.kind not in get_args(TaskKind):
            raise unknown("task kind", self.kind, get_args(TaskKind))
        fixed = {"question-answering": 2, "regression": 1}.get(self.kind)
        if fixed is not None and self.num_labels != fixed:
            raise QualaError(
                f"`num_labels` of a {self.kind} task must be {fixed}, got {self.num_labels}."
            )
        if self.num_labels < 1:
            raise QualaError(f"`num_labels` must be at least 1, got {self.num_labels}.")


def distributions(task: Task, logits: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the unnormalised log-scores of the D independent answers, (B, D, K).

    Spans (B, n, 2) become (B, 2, n) with padding at the lowest finite value; classes (B, C)
    become (B, 1, C).
    """
    if task.kind != "question-answering":
        return logits.unsqueeze(1)  # (B, 1, C)
    padding = attention_mask.unsqueeze(1) == 0  # (B, 1, n)
    lowest = torch.finfo(logits.dtype).min
    return logits.transpose(1, 2).masked_fill(padding, lowest)  # (B, 2, n)


def task_loss(task: Task, logits: Tensor, batch: Batch) -> Tensor:
    """Return the mean over B and D of the cross-entropy (spans, classes) or squared error."""
    if "labels" not in batch:
        raise QualaError("The loss needs labels, got a batch without them.")
    if task.kind == "regression":
        return functional.mse_loss(logits.float(), batch["labels"])
    scores = distributions(task, logits, batch["attention_mask"]).float()  # (B, D, K)
    return functional.cross_entropy(scores.flatten(0, 1), batch["labels"].flatten())
