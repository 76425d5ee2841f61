"""Batches of features: for training a function of a seed and a step, for scoring by length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from torch.utils.data import Dataset, Sampler

from quala.data.features import Batch, FeatureSet
from quala.errors import QualaError

Rows = list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """How an epoch is cut into batches of `batch_size` rows.

    With `bucketed`, pools of `pool_batches` batches are sorted by length, so that a batch holds
    rows of similar length. Raises QualaError for sizes below 1.
    """

    seed: int
    batch_size: int
    bucketed: bool = True
    pool_batches: int = 50
    """Large enough for little padding, small enough for batches that differ between epochs."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "pool_batches"):
            value = getattr(self, name)
            if value < 1:
                raise QualaError(f"`{name}` must be at least 1, got {value}.")


class StepBatches(Sampler[Rows]):
    """The batches of the steps `start` to `total_steps`, for a DataLoader's `sampler`.

    The order of epoch e depends on the seed and e alone, and every row comes once in an epoch,
    so a run that is resumed at any step continues as it would have. The length counts the steps
    before `start` too, as Lightning does. Raises QualaError for no rows.
    """

    def __init__(
        self, lengths: ArrayLike, plan: BatchPlan, *, total_steps: int, start: int = 0
    ) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.plan, self.total_steps, self.start = plan, total_steps, start
        if self.lengths.size == 0:
            raise QualaError("Batches need at least one row, got none.")
        if not 0 <= start <= total_steps:
            raise QualaError(f"`start` must lie in 0 to {total_steps}, got {start}.")

    def __len__(self) -> int:
        return self.total_steps

    def __iter__(self) -> Iterator[Rows]:
        per_epoch = self.steps_per_epoch
        for number in range(self.start // per_epoch, -(-self.total_steps // per_epoch)):
            first = number * per_epoch
            yield from self.epoch(number)[max(0, self.start - first) : self.total_steps - first]

    def resumed(self, start: int) -> StepBatches:
        """Return the same batches from the step `start` on."""
        return StepBatches(self.lengths, self.plan, total_steps=self.total_steps, start=start)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, the last of which may be short."""
        return -(-len(self.lengths) // self.plan.batch_size)

    def epoch(self, number: int) -> list[Rows]:
        """Return all batches of an epoch in their order."""
        size = self.plan.batch_size
        rng = np.random.default_rng((self.plan.seed, number))
        order = rng.permutation(len(self.lengths))
        if not self.plan.bucketed:
            return [order[first : first + size].tolist() for first in range(0, len(order), size)]
        pool = self.plan.pool_batches * size
        batches: list[Rows] = []
        for first in range(0, len(order), pool):
            rows = order[first : first + pool]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches += [rows[at : at + size].tolist() for at in range(0, len(rows), size)]
        return [batches[index] for index in rng.permutation(len(batches))]


def eval_batches(lengths: ArrayLike, batch_size: int) -> list[Rows]:
    """Return every row once, longest first, in batches that need little padding.

    The longest come first, so that a batch too large for the memory fails at once.
    """
    if batch_size < 1:
        raise QualaError(f"`batch_size` must be at least 1, got {batch_size}.")
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    return [
        order[first : first + batch_size].tolist() for first in range(0, len(order), batch_size)
    ]


class BatchDataset(Dataset[Batch]):
    """Lists of rows as batches: `DataLoader(dataset, sampler=batches, batch_size=None)`."""

    def __init__(self, features: FeatureSet, pad_to: int | None = None) -> None:
        self.features, self.pad_to = features, pad_to

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        return self.features.batch(rows, pad_to=self.pad_to)
