"""Which features form which batch: pure functions of a seed and a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Dataset, Sampler

from quala.data.features import Batch, FeatureSet
from quala.errors import QualaError

Rows = list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """How an epoch is cut: batches of `batch_size` rows or of at most `tokens_per_batch` tokens.

    Tokens count padding: rows times the longest row. With `bucketed`, pools of about
    `pool_batches` batches are sorted by length, so that a batch holds rows of similar length.
    """

    seed: int
    batch_size: int | None = None
    tokens_per_batch: int | None = None
    bucketed: bool = True
    pool_batches: int = 50

    def __post_init__(self) -> None:
        if (self.batch_size is None) == (self.tokens_per_batch is None):
            raise QualaError(
                "Batches have either `batch_size` or `tokens_per_batch`, "
                f"got {self.batch_size} and {self.tokens_per_batch}."
            )
        for name in ("batch_size", "tokens_per_batch", "pool_batches"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise QualaError(f"`{name}` must be at least 1, got {value}.")


class StepBatches(Sampler[Rows]):
    """The batches of the steps `start` to `total_steps`, for a DataLoader's `sampler`.

    The order of epoch e depends on the seed and e alone, and every row comes once in an epoch,
    so a run resumed at any step goes on exactly as it would have. Raises QualaError for no
    rows, and for rows longer than `tokens_per_batch`.
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
        longest = int(self.lengths.max())
        if plan.tokens_per_batch is not None and plan.tokens_per_batch < longest:
            raise QualaError(
                f"`tokens_per_batch` must be at least {longest}, the longest row, "
                f"got {plan.tokens_per_batch}."
            )

    def __len__(self) -> int:
        return self.total_steps - self.start

    def __iter__(self) -> Iterator[Rows]:
        return self.iter(self.start)

    def resumed(self, start: int) -> StepBatches:
        """Return the same batches from the step `start` on."""
        return StepBatches(self.lengths, self.plan, total_steps=self.total_steps, start=start)

    def iter(self, start: int = 0) -> Iterator[Rows]:
        """Yield the batches of the steps `start` to `total_steps`."""
        step, epoch = 0, 0
        if self.plan.batch_size is not None:
            epoch = start // self.steps_per_epoch
            step = epoch * self.steps_per_epoch
        while step < self.total_steps:
            batches = self.epoch(epoch)
            yield from batches[max(0, start - step) : self.total_steps - step]
            step, epoch = step + len(batches), epoch + 1

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch; of epoch 0 when the batches are cut by tokens."""
        if self.plan.batch_size is None:
            return len(self.epoch(0))
        return -(-len(self.lengths) // self.plan.batch_size)

    def epoch(self, number: int) -> list[Rows]:
        """Return all batches of an epoch in their order."""
        rng = np.random.default_rng((self.plan.seed, number))
        order = rng.permutation(len(self.lengths))
        if not self.plan.bucketed:
            return self._cut(order)
        pool = max(1, int(self.plan.pool_batches * self._rows_per_batch()))
        batches = [
            batch
            for first in range(0, len(order), pool)
            for batch in self._cut(self._sorted(order[first : first + pool]))
        ]
        return [batches[index] for index in rng.permutation(len(batches))]

    def _rows_per_batch(self) -> float:
        if self.plan.batch_size is not None:
            return self.plan.batch_size
        return (self.plan.tokens_per_batch or 1) / float(self.lengths.mean())

    def _sorted(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows[np.argsort(self.lengths[rows], kind="stable")]

    def _cut(self, rows: NDArray[np.int64]) -> list[Rows]:
        size = self.plan.batch_size
        if size is not None:
            return [rows[first : first + size].tolist() for first in range(0, len(rows), size)]
        return _cut_by_tokens(
            rows.tolist(), self.lengths[rows].tolist(), limit=self.plan.tokens_per_batch or 0
        )


def _cut_by_tokens(rows: Rows, lengths: list[int], *, limit: int) -> list[Rows]:
    batches: list[Rows] = []
    longest = limit
    for row, length in zip(rows, lengths):
        grown = max(longest, length)
        if not batches or grown * (len(batches[-1]) + 1) > limit:
            batches.append([])
            grown = length
        batches[-1].append(row)
        longest = grown
    return batches


def eval_batches(lengths: ArrayLike, batch_size: int) -> list[Rows]:
    """Return every row once, longest first, in batches that need little padding.

    The longest first, so that a batch too large for the memory fails at once.
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
