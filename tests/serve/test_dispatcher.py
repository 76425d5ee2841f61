"""What is taken together: the oldest, and what is most like it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pytest

from quala.errors import QualaError
from quala.runtime.card import Budget, Query, Reply
from quala.serve.dispatcher import Answers, Dispatcher, Job, Waiting, Worker
from quala.serve.errors import Refusal
from quala.serve.middleware import Metrics
from quala.serve.settings import Settings


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


QUERY = Query(question="q", context="c")


def _run(answer: Answers) -> list[Reply]:
    worker = Worker(answer)
    try:
        return asyncio.run(worker.run([QUERY]))
    finally:
        worker.close()


def test_a_failure_comes_back_as_it_was() -> None:
    def fail(_: object) -> list[Reply]:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        _run(fail)


def test_replies_must_be_as_many_as_queries() -> None:
    with pytest.raises(RuntimeError, match="1 queries got 0 replies"):
        _run(lambda _: [])


T = TypeVar("T")


def _query(question: str) -> Query:
    return Query(question=question, context="Ada Bell sings.")


@contextlib.asynccontextmanager
async def _running(toy: Any, **limits: Any) -> AsyncIterator[Dispatcher]:
    settings = Settings(**({"batch_wait_ms": 0} | limits))
    dispatcher = Dispatcher(toy, settings=settings, metrics=Metrics())
    dispatcher.start()
    yield dispatcher
    toy.gate.set()
    await dispatcher.stop()


async def _soon(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def _occupied(toy: Any, dispatcher: Dispatcher) -> asyncio.Task[Any]:
    """Have the model hold on to a first query."""
    toy.gate.clear()
    first = asyncio.create_task(dispatcher.submit([_query("first")]))
    await _soon(toy.entered.is_set)
    return first


async def _queued(dispatcher: Dispatcher, *questions: str) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(dispatcher.submit([_query(one)])) for one in questions]
    await _soon(lambda: dispatcher.depth == len(questions))
    return tasks


def _play(scene: Callable[[], Awaitable[T]]) -> T:
    return asyncio.run(scene())  # type: ignore[arg-type]


def test_queries_that_wait_together_run_together(toy: Any) -> None:
    async def scene() -> None:
        async with _running(toy) as dispatcher:
            first = await _occupied(toy, dispatcher)
            others = await _queued(dispatcher, "a", "b", "c")
            toy.gate.set()
            replies = await asyncio.gather(first, *others)
            assert [reply[0].answers[0].text for reply in replies] == ["Ada Bell"] * 4

    _play(scene)
    assert toy.questions == [["first"], ["a", "b", "c"]]


def test_a_batch_has_no_more_than_its_limit(toy: Any) -> None:
    async def scene() -> None:
        async with _running(toy, max_batch=2) as dispatcher:
            first = await _occupied(toy, dispatcher)
            others = await _queued(dispatcher, "a", "b", "c")
            toy.gate.set()
            await asyncio.gather(first, *others)

    _play(scene)
    assert toy.questions == [["first"], ["a", "b"], ["c"]]


def test_the_first_waits_for_others_until_the_batch_is_full(toy: Any) -> None:
    async def scene() -> None:
        async with _running(toy, max_batch=3, batch_wait_ms=60_000) as dispatcher:
            await asyncio.gather(*(dispatcher.submit([_query(one)]) for one in "abc"))

    _play(scene)
    assert toy.questions == [["a", "b", "c"]]


def test_a_stop_does_not_wait_for_others(toy: Any) -> None:
    async def scene() -> None:
        async with _running(toy, batch_wait_ms=60_000, timeout_s=3600) as dispatcher:
            only = asyncio.create_task(dispatcher.submit([_query("only")]))
            await _soon(lambda: dispatcher.depth == 1)
            await dispatcher.stop()
            assert len(await only) == 1

    _play(scene)


@pytest.mark.parametrize(
    ("bad", "error"), [("refuse", QualaError), ("fail", Refusal)], ids=["refused", "failed"]
)
def test_a_bad_query_does_not_spoil_its_neighbors(
    toy: Any, bad: str, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> list[Any]:
        async with _running(toy) as dispatcher:
            first = await _occupied(toy, dispatcher)
            others = await _queued(dispatcher, "a", bad, "b")
            toy.gate.set()
            await first
            return await asyncio.gather(*others, return_exceptions=True)

    a, spoiled, b = _play(scene)
    assert a[0].answers[0].text == b[0].answers[0].text == "Ada Bell"
    assert isinstance(spoiled, error)
    assert toy.questions == [["first"], ["a", bad, "b"], ["a"], [bad], ["b"]]
    assert ("a secret of the toy" in caplog.text) == (bad == "fail")


def test_a_full_queue_refuses_all_of_a_request(toy: Any) -> None:
    async def scene() -> None:
        async with _running(toy, queue=3) as dispatcher:
            await _occupied(toy, dispatcher)
            await _queued(dispatcher, "a", "b")
            with pytest.raises(Refusal, match="queue is full") as refusal:
                await dispatcher.submit([_query("c"), _query("d")])
            assert (refusal.value.status, refusal.value.retry_after) == (429, 1)
            assert dispatcher.depth == 2

    _play(scene)


def test_a_request_larger_than_the_queue_is_a_mistake(toy: Any) -> None:
    async def scene() -> None:
        async with _running(toy, queue=2) as dispatcher:
            with pytest.raises(QualaError, match="at most 2 queries, got 3"):
                await dispatcher.submit([_query("a")] * 3)

    _play(scene)


def test_the_time_limit_empties_the_place_in_the_queue(toy: Any) -> None:
    async def scene() -> None:
        async with _running(toy, timeout_s=0.05) as dispatcher:
            first = await _occupied(toy, dispatcher)
            waiting = await _queued(dispatcher, "late")
            for task in (first, *waiting):
                with pytest.raises(Refusal, match=r"within 0\.05 s") as refusal:
                    await task
                assert refusal.value.status == 504
            assert dispatcher.depth == 0
            assert dispatcher.idle

    _play(scene)
    assert toy.questions == [["first"]]


def test_who_leaves_is_not_answered(toy: Any) -> None:
    async def scene() -> None:
        async with _running(toy) as dispatcher:
            first = await _occupied(toy, dispatcher)
            gone, stays = await _queued(dispatcher, "gone", "stays")
            gone.cancel()
            await _soon(lambda: dispatcher.depth == 1)
            toy.gate.set()
            await asyncio.gather(first, stays)

    _play(scene)
    assert toy.questions == [["first"], ["stays"]]


def test_a_stop_answers_what_waits_and_refuses_what_is_new(toy: Any) -> None:
    async def scene() -> None:
        async with _running(toy) as dispatcher:
            first = await _occupied(toy, dispatcher)
            waiting = await _queued(dispatcher, "queued")
            dispatcher.close()
            with pytest.raises(Refusal, match="stopping") as refusal:
                await dispatcher.submit([_query("new")])
            assert refusal.value.status == 503
            toy.gate.set()
            await dispatcher.stop()
            assert all(task.done() for task in (first, *waiting))
            assert len(waiting[0].result()) == 1

    _play(scene)
