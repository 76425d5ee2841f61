"""The search slice of a task as chunks of examples, and its metric as a scoring."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from quala.errors import QualaError
from quala.search.evaluate import Chunk, Outputs
from quala.search.racing import Array

if TYPE_CHECKING:
    from quala.data.taskdata import Slice, TaskData


def cut_chunks(
    part: Slice, *, examples: int, batch_size: int, seed: int, pad_to: int | None = None
) -> list[Chunk]:
    """Shuffle the examples of a slice and cut them into chunks of `examples`.

    All features of an example come in one chunk; a chunk's batches are made by length. Raises
    QualaError for sizes below 1.
    """
    if examples < 1 or batch_size < 1:
        raise QualaError(
            f"`examples` and `batch_size` must be positive, got {examples} and {batch_size}."
        )
    order = list(range(len(part.examples)))
    Random(seed).shuffle(order)
    cuts = [sorted(order[start : start + examples]) for start in range(0, len(order), examples)]
    return [_chunk(part, cut, batch_size=batch_size, pad_to=pad_to) for cut in cuts]


def _chunk(part: Slice, examples: list[int], *, batch_size: int, pad_to: int | None) -> Chunk:
    features = part.features
    rows = features.rows_of(examples)
    rows = rows[np.argsort(features.lengths[rows], kind="stable")]
    batches = [
        features.batch(rows[start : start + batch_size].tolist(), pad_to=pad_to)
        for start in range(0, len(rows), batch_size)
    ]
    return Chunk(tuple(batches), tuple(examples))


@dataclass(frozen=True)
class TaskScoring:
    """Scores by the primary metric of a task's slice."""

    data: TaskData
    part: Slice

    @property
    def additive(self) -> bool:
        """Say whether the metric is a mean over examples."""
        task = self.data.task
        return task.kind == "question-answering" or task.metric == "accuracy"

    def examples(self, chunk: Chunk, outputs: Outputs) -> Array:
        """Return the metric of each example of the chunk."""
        rows = sorted(outputs)
        return self.data.example_scores(self.part, [outputs[row] for row in rows], rows)

    def total(self, outputs: Outputs) -> float:
        """Return the metric over the slice."""
        metrics = self.data.score(self.part, [outputs[row] for row in sorted(outputs)])
        return float(metrics[self.data.task.metric])
