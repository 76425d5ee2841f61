"""Engines are timed side by side, after a pass that is not counted."""

from __future__ import annotations

import time

import pytest

from quala.errors import QualaError
from quala.runtime.timing import Entry, compare, token_counts, words


def test_every_batch_goes_through_all_entries_after_an_uncounted_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[str, list[int]]] = []
    clock = [0.0]
    pace = {"slow": 4.0, "fast": 1.0}

    def entry(name: str) -> Entry[int]:
        def run(group: list[int]) -> None:
            seen.append((name, group))
            counted = len(seen) > 4
            clock[0] += (pace[name] if counted else 100.0) * len(group)

        return Entry(name, run)

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    slow, fast = compare([entry("slow"), entry("fast")], [1, 2, 3, 4, 5], batch=2)
    once = [("slow", [1, 2]), ("fast", [1, 2]), ("slow", [3, 4]), ("fast", [3, 4])]
    assert seen == once * 2
    assert (slow.median, fast.median) == (4000.0, 1000.0)
    assert (slow.ratio, fast.ratio) == (1.0, 4.0)


def test_too_few_inputs_are_refused() -> None:
    with pytest.raises(QualaError, match="A batch of 3 needs as many inputs, got 2"):
        compare([Entry("one", len)], [1, 2], batch=3)


def test_words_pad_to_the_longest() -> None:
    batch = words([20, 16], pad_to=24)
    assert batch["attention_mask"].sum(axis=1).tolist() == [20, 16]
    assert (batch["input_ids"] > 0).sum(axis=1).tolist() == [20, 16]
    assert batch["segment_ids"].sum(axis=1).tolist() == [6, 2]


@pytest.mark.parametrize("data", ["1", "129", "-5", "none"])
def test_sizes_that_cannot_be_are_refused(data: str) -> None:
    with pytest.raises(QualaError, match="`--data` is `natural` or 2 to 128 tokens"):
        token_counts(data, longest=128)
