"""Interleaved timing, and synthetic inputs to time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from quala.errors import QualaError

QUESTION_TOKENS = 14
"""A typical SQuAD question, with [CLS] and [SEP]; chosen by hand."""

Input = TypeVar("Input")
Call = Callable[[], object]


def interleaved(
    entries: Sequence[Sequence[Call]],
    *,
    warmup: int,
    advance: Callable[[], None] = lambda: None,
) -> list[list[float]]:
    """Return the milliseconds of each entry's calls.

    The first call of every entry is made, then the second, and so on, so that a change of the
    machine's speed affects all entries. The first `warmup` calls are made once before and not
    counted. The shortest entry ends the timing. `advance` is called after each round.
    """
    rounds = list(zip(*entries, strict=False))
    for calls in rounds[:warmup]:
        for call in calls:
            call()
    milliseconds: list[list[float]] = [[] for _ in entries]
    for calls in rounds:
        for call, times in zip(calls, milliseconds, strict=True):
            started = time.perf_counter()
            call()
            times.append(1000 * (time.perf_counter() - started))
        advance()
    return milliseconds


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds per input; `ratio` is the first entry's median over this one's."""

    name: str
    batch: int
    median: float
    p10: float
    p90: float
    ratio: float


def compare(
    entries: Mapping[str, Callable[[list[Input]], object]], inputs: Sequence[Input], *, batch: int
) -> list[Timing]:
    """Time entries on the same batches of neighboring inputs.

    The first entry is the baseline. A first pass over all batches is not counted: a runtime
    prepares for lengths that are new to it. Raises QualaError for fewer inputs than `batch`.
    """
    if len(inputs) < batch:
        raise QualaError(f"A batch of {batch} needs as many inputs, got {len(inputs)}.")
    last = len(inputs) - batch + 1
    groups = [list(inputs[first : first + batch]) for first in range(0, last, batch)]
    calls = [[partial(run, group) for group in groups] for run in entries.values()]
    taken = np.array(interleaved(calls, warmup=len(groups))) / batch  # (entries, groups)
    base = statistics.median(taken[0].tolist())
    timings = []
    for name, times in zip(entries, taken, strict=True):
        low, median, high = np.percentile(times, (10, 50, 90)).tolist()
        timings.append(Timing(name, batch, median, low, high, base / median))
    return timings


def synthetic_inputs(counts: Sequence[int], *, seed: int = 0) -> dict[str, NDArray[np.int64]]:
    """Return random inputs with these token counts, int64 (B, n)."""
    column = np.arange(max(counts))[None, :]
    real = column < np.asarray(counts)[:, None]
    # Ids from 5 on are no special tokens of BERT's; every vocabulary has the ids below 500.
    ids = np.random.default_rng(seed).integers(5, 500, real.shape)
    return {
        "input_ids": np.where(real, ids, 0).astype(np.int64),
        "attention_mask": real.astype(np.int64),
        "segment_ids": (real & (column >= QUESTION_TOKENS)).astype(np.int64),
    }
