"""Time engines side by side: interleaved, warmed up, as medians and ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from quala.errors import QualaError

# Tokens of SQuAD 1.1 dev windows (max_length 384, BERT vocabulary): 32 evenly spaced quantiles.
SQUAD_TOKENS = (
    61, 86, 103, 112, 119, 123, 128, 131, 134, 138, 142, 145, 149, 153, 157, 161,
    166, 170, 175, 180, 185, 191, 197, 203, 211, 218, 228, 242, 259, 279, 309, 384,
)  # fmt: skip
Words = dict[str, NDArray[np.int64]]


Input = TypeVar("Input")


@dataclass(frozen=True, slots=True, eq=False)
class Entry(Generic[Input]):
    """Something to time on a batch, whatever its inputs are."""

    name: str
    run: Callable[[list[Input]], Any]


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds per input, and how often the first entry's median it fits."""

    name: str
    batch: int
    median: float
    p10: float
    p90: float
    ratio: float


def token_counts(data: str, *, longest: int) -> list[int]:
    """Return the tokens of the inputs: `natural` (SQuAD dev) or one number for all.

    Raises QualaError for anything else and for more tokens than the model reads.
    """
    if data == "natural":
        return [min(count, longest) for count in SQUAD_TOKENS]
    if not data.isdigit() or not 2 <= int(data) <= longest:
        raise QualaError(f"`--data` is `natural` or 2 to {longest} tokens, got `{data}`.")
    return [int(data)] * len(SQUAD_TOKENS)


def compare(
    entries: Sequence[Entry[Input]], inputs: Sequence[Input], *, batch: int
) -> list[Timing]:
    """Run every batch of neighbors through all entries before the next one.

    The first entry is the baseline. A first pass over all batches is not counted: runtimes prepare
    for lengths that they have not seen. Raises QualaError for fewer inputs than a batch holds.
    """
    if len(inputs) < batch:
        raise QualaError(f"A batch of {batch} needs as many inputs, got {len(inputs)}.")
    last = len(inputs) - batch + 1
    groups = [list(inputs[first : first + batch]) for first in range(0, last, batch)]
    taken: dict[str, list[float]] = {entry.name: [] for entry in entries}
    for group in groups:
        for entry in entries:
            entry.run(group)
    for group in groups:
        for entry in entries:
            started = time.perf_counter()
            entry.run(group)
            taken[entry.name].append(1000 * (time.perf_counter() - started) / batch)
    base = statistics.median(taken[entries[0].name])
    return [_timing(name, batch, times, base) for name, times in taken.items()]


def _timing(name: str, batch: int, times: Sequence[float], base: float) -> Timing:
    low, median, high = np.percentile(times, (10, 50, 90)).tolist()
    return Timing(name, batch, median, low, high, base / median)


def words(counts: Sequence[int], *, pad_to: int | None = None, seed: int = 0) -> Words:
    """Return a batch of inputs of these token counts, a question of 14 tokens in each."""
    width = pad_to or max(counts)
    column = np.arange(width)[None, :]
    real = column < np.asarray(counts)[:, None]
    ids = np.random.default_rng(seed).integers(5, 500, real.shape)
    return {
        "input_ids": np.where(real, ids, 0).astype(np.int64),
        "attention_mask": real.astype(np.int64),
        "segment_ids": (real & (column >= 14)).astype(np.int64),
    }
