"""Timing: who runs when, on how many threads, and what counts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
import torch
from torch import Tensor

from quala.data.features import Batch
from quala.lengths import LengthConfig
from quala.runtime.latency import Timed, measure_latency, torch_threads


def batch(number: int, rows: int = 1) -> Batch:
    ids = torch.full((rows, 4), number)
    return {
        "input_ids": ids, "attention_mask": ids, "segment_ids": ids, "feature": torch.arange(rows)
    }  # fmt: skip


class Noting:
    """A session that writes down what it is asked."""

    def __init__(self, name: str, log: list[tuple[str, int]]) -> None:
        self.name, self.log = name, log
        self.threads: set[int] = set()

    def run(self, batch: Batch, lengths: LengthConfig | None) -> Tensor:
        self.log.append((self.name, int(batch["input_ids"][0, 0])))
        self.threads.add(torch.get_num_threads())
        return torch.zeros(1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every look at the clock finds it 10 ms later."""
    ticks = count()
    monkeypatch.setattr("quala.runtime.latency.time.perf_counter", lambda: next(ticks) / 100)
    yield
    monkeypatch.undo()


def entries(log: list[tuple[str, int]], batches: dict[str, list[Batch]]) -> list[Timed]:
    return [Timed(name, Noting(name, log), None, given) for name, given in batches.items()]


def test_every_input_goes_through_all_before_the_next(clock: None) -> None:
    log: list[tuple[str, int]] = []
    given = [batch(number) for number in range(3)]
    timed = entries(log, {"a": given, "b": given})
    found = measure_latency(timed, warmup=0, threads=1)
    assert log == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert found == {"a": pytest.approx([10.0] * 3), "b": pytest.approx([10.0] * 3)}


def test_warming_up_does_not_count(clock: None) -> None:
    log: list[tuple[str, int]] = []
    given = [batch(number) for number in range(3)]
    found = measure_latency(entries(log, {"a": given}), warmup=2, threads=1)
    assert [number for _, number in log] == [0, 1, 0, 1, 2]
    assert len(found["a"]) == 3


def test_time_is_per_input(clock: None) -> None:
    found = measure_latency(entries([], {"a": [batch(0, rows=5)]}), warmup=0, threads=1)
    assert found["a"] == pytest.approx([2.0])


def test_an_entry_with_fewer_inputs_ends_the_timing(clock: None) -> None:
    given = [batch(number) for number in range(3)]
    found = measure_latency(entries([], {"a": given, "b": given[:2]}), warmup=0, threads=1)
    assert {name: len(values) for name, values in found.items()} == {"a": 2, "b": 2}


def test_progress_moves_with_the_inputs(clock: None) -> None:
    steps: list[int] = []
    timed = entries([], {"a": [batch(0), batch(1)], "b": [batch(0), batch(1)]})
    measure_latency(timed, warmup=1, threads=1, advance=lambda: steps.append(1))
    assert len(steps) == 2


def test_sessions_run_on_the_threads_asked_for() -> None:
    before = torch.get_num_threads()
    timed = entries([], {"a": [batch(0)]})
    measure_latency(timed, warmup=1, threads=2)
    assert timed[0].session.threads == {2}  # type: ignore[attr-defined]
    assert torch.get_num_threads() == before


def test_threads_come_back_after_a_failure() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt), torch_threads(before + 1):
        raise KeyboardInterrupt
    assert torch.get_num_threads() == before
