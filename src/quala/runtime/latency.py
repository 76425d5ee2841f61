"""Time sessions side by side: interleaved, warmed up, with a stated number of threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from quala.lengths import LengthConfig

if TYPE_CHECKING:
    from quala.data.features import Batch
    from quala.runtime.session import Session


@dataclass(frozen=True, eq=False)
class Timed:
    """A session at one set of lengths on its own form of the same inputs."""

    name: str
    session: Session
    lengths: LengthConfig | None
    batches: Sequence[Batch]


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run with `count` threads inside operators, then with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure_latency(
    timed: Sequence[Timed],
    *,
    warmup: int,
    threads: int,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Return the milliseconds per input of each entry, one value for each of its batches.

    Every input goes through all entries before the next one does, so that a machine whose speed
    drifts drifts for all of them. `warmup` inputs are run first and not counted.
    """
    milliseconds: dict[str, list[float]] = {entry.name: [] for entry in timed}
    with torch_threads(threads):
        for entry in timed:
            for batch in entry.batches[:warmup]:
                entry.session.run(batch, entry.lengths)
        for number in range(min(len(entry.batches) for entry in timed)):
            for entry in timed:
                milliseconds[entry.name].append(_once(entry, number))
            advance()
    return milliseconds


def _once(entry: Timed, number: int) -> float:
    batch = entry.batches[number]
    started = time.perf_counter()
    entry.session.run(batch, entry.lengths)
    elapsed = time.perf_counter() - started
    return 1000 * elapsed / len(batch["input_ids"])
