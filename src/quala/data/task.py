"""What a model is asked: its kind, its output distributions, its loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from quala.data.decode import Decoding, best_answers, decode_answers
from quala.data.features import Batch, ClassificationExample, Example, FeatureSet, QAExample
from quala.data.spec import DataSpec
from quala.errors import QualaError, unknown
from quala.metrics.glue import compute_metric, task_metrics
from quala.metrics.squad import answer_f1, evaluate_predictions

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
    """Return the unnormalized log-scores of the D independent answers, (B, D, K).

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


Outputs = Sequence[NDArray[np.floating[Any]]]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outcome:
    """A slice and the logits of its features `rows`, or of all of them.

    Raises QualaError when there is not one output per feature.
    """

    examples: Sequence[Example]
    features: FeatureSet
    outputs: Outputs
    rows: Sequence[int] | None = None

    def __post_init__(self) -> None:
        expected = len(self.features) if self.rows is None else len(self.rows)
        if expected != len(self.outputs):
            raise QualaError(
                f"Expected the outputs of {expected} features, got {len(self.outputs)}."
            )

    @property
    def owners(self) -> NDArray[np.int64]:
        """The index of the example that each output belongs to."""
        owners = self.features.example
        return np.asarray(owners if self.rows is None else owners[list(self.rows)], dtype=np.int64)


class SpanScoring:
    """Official exact match and F1 of the best answers."""

    def __init__(self, spec: DataSpec) -> None:
        self.spec = spec

    def judge(self, outcome: Outcome) -> tuple[dict[str, float], dict[str, str]]:
        asked, predictions = self._answered(outcome)
        score = evaluate_predictions(asked, predictions)
        return {"f1": score.f1, "exact_match": score.exact_match}, predictions

    def example_scores(self, outcome: Outcome) -> Floats:
        asked, predictions = self._answered(outcome)
        return np.array(
            [100.0 * answer_f1(predictions[example.id], example.answers) for example in asked]
        )

    def _answered(self, outcome: Outcome) -> tuple[list[QAExample], dict[str, str]]:
        examples = cast("Sequence[QAExample]", outcome.examples)
        decoding = Decoding(
            n_best=self.spec.n_best, max_answer_length=self.spec.max_answer_length, keep=1
        )
        decoded = decode_answers(
            examples, outcome.features, outcome.outputs, decoding=decoding, rows=outcome.rows
        )
        return [examples[index] for index in decoded], best_answers(examples, decoded)


class SentenceScoring:
    """The metrics of the GLUE task, the primary one first."""

    def __init__(self, spec: DataSpec, *, regression: bool) -> None:
        self.regression = regression
        self.metrics = task_metrics(spec.subset, regression=regression)

    def judge(self, outcome: Outcome) -> tuple[dict[str, float], dict[str, str]]:
        predicted, gold = self._predicted_and_gold(outcome)
        scores = {name: compute_metric(name, predicted, gold) for name in self.metrics}
        examples = [outcome.examples[index] for index in np.sort(outcome.owners)]
        named = zip(examples, predicted, strict=True)
        return scores, {example.id: str(value) for example, value in named}

    def example_scores(self, outcome: Outcome) -> Floats:
        if self.regression:
            raise QualaError("A correlation is no mean over examples: it has no example scores.")
        predicted, gold = self._predicted_and_gold(outcome)
        return np.where(predicted == gold, 100.0, 0.0)

    def _predicted_and_gold(self, outcome: Outcome) -> tuple[NDArray[Any], NDArray[Any]]:
        examples = cast("Sequence[ClassificationExample]", outcome.examples)
        order = np.argsort(outcome.owners, kind="stable")
        gold = np.array([examples[index].label for index in outcome.owners[order]])
        logits = np.array([outcome.outputs[index] for index in order], dtype=np.float64)  # (E, C)
        return (logits[:, 0] if self.regression else logits.argmax(axis=1)), gold
