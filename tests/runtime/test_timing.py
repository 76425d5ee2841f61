"""Times are taken side by side, after calls that are not counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import count

import pytest

from quala.errors import QualaError
from quala.runtime.timing import compare, interleaved, synthetic_inputs, watched

Log = list[tuple[str, int]]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock finds it 10 ms later."""
    ticks = count()
    monkeypatch.setattr("quala.runtime.timing.time.perf_counter", lambda: next(ticks) / 100)


def calls(log: Log, name: str, numbers: int) -> list[Callable[[], object]]:
    return [partial(log.append, (name, number)) for number in range(numbers)]


def test_every_input_goes_through_all_before_the_next(clock: None) -> None:
    log: Log = []
    found = interleaved([calls(log, "a", 3), calls(log, "b", 3)], warmup=0)
    assert log == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert found == [pytest.approx([10.0] * 3), pytest.approx([10.0] * 3)]


def test_warming_up_does_not_count(clock: None) -> None:
    log: Log = []
    (found,) = interleaved([calls(log, "a", 3)], warmup=2)
    assert [number for _, number in log] == [0, 1, 0, 1, 2]
    assert len(found) == 3


def test_an_entry_with_fewer_inputs_ends_the_timing(clock: None) -> None:
    found = interleaved([calls([], "a", 3), calls([], "b", 2)], warmup=0)
    assert [len(values) for values in found] == [2, 2]


def test_progress_moves_with_the_inputs(clock: None) -> None:
    steps: list[int] = []
    entries = [calls([], "a", 2), calls([], "b", 2)]
    interleaved(entries, warmup=1, advance=lambda: steps.append(1))
    assert len(steps) == 2


def test_time_is_per_input(clock: None) -> None:
    (timing,) = compare({"a": len}, [0] * 5, batch=5)
    assert timing.median == pytest.approx(2.0)


def test_every_batch_goes_through_all_entries_after_an_uncounted_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[str, list[int]]] = []
    clock = [0.0]
    pace = {"slow": 4.0, "fast": 1.0}

    def entry(name: str) -> Callable[[list[int]], None]:
        def run(group: list[int]) -> None:
            seen.append((name, group))
            counted = len(seen) > 4
            clock[0] += (pace[name] if counted else 100.0) * len(group)

        return run

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    entries = {name: entry(name) for name in ("slow", "fast")}
    slow, fast = compare(entries, [1, 2, 3, 4, 5], batch=2)
    once = [("slow", [1, 2]), ("fast", [1, 2]), ("slow", [3, 4]), ("fast", [3, 4])]
    assert seen == once * 3  # the last to see how steady the machine is
    assert (slow.median, fast.median) == (4000.0, 1000.0)
    assert (slow.ratio, fast.ratio) == (1.0, 4.0)


@pytest.mark.parametrize(("slower", "spread"), [(1.0, 0.0), (1.3, 0.3), (0.8, 0.2)])
def test_rounds_are_timed_again_to_see_how_steady_the_machine_is(
    monkeypatch: pytest.MonkeyPatch, slower: float, spread: float
) -> None:
    clock, ran = [0.0], [0]

    def call() -> None:
        ran[0] += 1
        clock[0] += slower if ran[0] > 100 else 1.0

    monkeypatch.setattr("quala.runtime.timing.time.perf_counter", lambda: clock[0])
    times, conditions = watched([[call] * 50, [call] * 50], warmup=0)
    assert times == [[1000.0] * 50] * 2
    assert conditions.spread == pytest.approx(spread)
    assert ran[0] == 100 + 2 * 13  # every fourth round


def test_too_few_inputs_are_refused() -> None:
    with pytest.raises(QualaError, match="A batch of 3 needs as many inputs, got 2"):
        compare({"one": len}, [1, 2], batch=3)


def test_inputs_pad_to_the_longest() -> None:
    batch = synthetic_inputs([20, 16])
    assert batch["attention_mask"].sum(axis=1).tolist() == [20, 16]
    assert (batch["input_ids"] > 0).sum(axis=1).tolist() == [20, 16]
    assert batch["segment_ids"].sum(axis=1).tolist() == [6, 2]


@pytest.mark.parametrize("words", [3, 9, 30522])
def test_ids_are_those_of_the_vocabulary(words: int) -> None:
    ids = synthetic_inputs([400], words=words)["input_ids"]
    assert min(words, 500) // 2 <= ids.max() < min(words, 500)
    assert ids.min() >= min(5, words - 1)
