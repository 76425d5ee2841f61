"""What is taken together: the oldest, and what is most like it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from quala.runtime.card import Budget, Query, Reply
from quala.serve.dispatcher import Job, Waiting


def _taken(jobs: Sequence[tuple[str, int, float | None]], *, most: int) -> list[str]:
    async def take() -> list[str]:
        waiting = Waiting()
        for name, size, ms in jobs:
            query = Query(question=name, context="x" * size, budget=Budget(ms=ms))
            future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            waiting.add([Job(query, future, 0.0)])
        return [job.query.question for job in waiting.take(most)]

    return asyncio.run(take())


def test_the_oldest_goes_first_and_no_more_than_allowed() -> None:
    jobs = [("a", 900, None), ("b", 900, None), ("c", 900, None)]
    assert _taken(jobs, most=2) == ["a", "b"]


def test_the_same_budget_comes_before_another() -> None:
    jobs = [("a", 900, 5.0), ("other", 900, 9.0), ("same", 1200, 5.0)]
    assert _taken(jobs, most=2) == ["a", "same"]
    assert _taken(jobs, most=3) == ["a", "same", "other"]


def test_the_nearest_length_comes_first() -> None:
    jobs = [("a", 1000, None), ("longer", 3000, None), ("near", 1100, None)]
    assert _taken(jobs, most=2) == ["a", "near"]


def test_a_very_long_text_does_not_hold_a_short_one_up() -> None:
    jobs = [("short", 600, None), ("long", 90_000, None), ("shorter", 10, None)]
    assert _taken(jobs, most=8) == ["short", "shorter"]
    assert _taken(jobs[1:], most=8) == ["long"]
