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
from quala.runtime.hardware import Conditions, Watch

AGAIN = 12
"""Rounds that are timed once more, to see how steady the machine is; chosen by hand."""
QUESTION_TOKENS = 14
"""A typical SQuAD question, with [CLS] and [SEP]; chosen by hand."""
WORDS = 500
"""Ids that synthetic inputs take, of a vocabulary that has as many."""

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


def watched(
    entries: Sequence[Sequence[Call]],
    *,
    warmup: int,
    advance: Callable[[], None] = lambda: None,
) -> tuple[list[list[float]], Conditions]:
    """Time as `interleaved` does, then some rounds again; return also the machine's conditions.

    What is timed again only says how steady the machine is.
    """
    watch = Watch()
    times = interleaved(entries, warmup=warmup, advance=advance)
    rounds = range(0, len(times[0]), max(1, len(times[0]) // AGAIN))
    again = interleaved([[calls[each] for each in rounds] for calls in entries], warmup=0)
    first = [values[each] for values in times for each in rounds]
    return times, watch.conditions(spread(first, [one for values in again for one in values]))


def spread(first: Sequence[float], second: Sequence[float]) -> float:
    """Return by how much the same calls at two moments differ: the median ratio, less 1."""
    return abs(statistics.median(b / a for a, b in zip(first, second, strict=True) if a) - 1)


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds per input; `ratio` is the first entry's median over this one's."""

    name: str
    batch: int
    median: float
    p10: float
    p90: float
    ratio: float
    conditions: Conditions


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
    times, conditions = watched(calls, warmup=len(groups))
    taken = np.array(times) / batch  # (entries, groups)
    base = statistics.median(taken[0].tolist())
    timings = []
    for name, own in zip(entries, taken, strict=True):
        low, median, high = np.percentile(own, (10, 50, 90)).tolist()
        timings.append(Timing(name, batch, median, low, high, base / median, conditions))
    return timings


def synthetic_inputs(
    counts: Sequence[int], *, seed: int = 0, words: int = WORDS
) -> dict[str, NDArray[np.int64]]:
    """Return random inputs with these token counts, int64 (B, n); the ids are below `words`."""
    column = np.arange(max(counts))[None, :]
    real = column < np.asarray(counts)[:, None]
    most = min(words, WORDS)
    # Ids from 5 on are no special tokens of BERT's.
    ids = np.random.default_rng(seed).integers(min(5, most - 1), most, real.shape)
    return {
        "input_ids": np.where(real, ids, 0).astype(np.int64),
        "attention_mask": real.astype(np.int64),
        "segment_ids": (real & (column >= QUESTION_TOKENS)).astype(np.int64),
    }
