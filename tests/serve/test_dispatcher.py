"""What runs together, in which order, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from quala.errors import QualaError
from quala.runtime.card import Query, Reply
from quala.runtime.prediction import TextQuery
from quala.serve import dispatcher as dispatcher_module
from quala.serve.dispatcher import (
    BATCH_TOKENS,
    Dispatcher,
    Job,
    Waiting,
    WholeSteps,
    Worker,
    give_memory_back,
)
from quala.serve.errors import Refusal
from quala.serve.middleware import Metrics
from quala.serve.settings import Settings, fits


@dataclass(eq=False)
class Pieces:
    """A query as windows of some lengths."""

    name: str
    tokens: list[int]
    group: object = None
    done: list[int] = field(default_factory=list)


def _waiting(*works: Pieces) -> Waiting:
    waiting = Waiting()
    loop = asyncio.new_event_loop()
    for work in works:
        waiting.add(Job([work], loop.create_future(), 0.0))
    loop.close()
    return waiting


def _taken(*works: Pieces, most: int) -> list[str]:
    return [window.work.name for window in _waiting(*works).take(most)]  # type: ignore[attr-defined]


def test_the_oldest_goes_first_and_no_more_than_allowed() -> None:
    works = [Pieces("a", [200]), Pieces("b", [200]), Pieces("c", [200])]
    assert _taken(*works, most=2) == ["a", "b"]


def test_the_same_budget_comes_before_another() -> None:
    works = [Pieces("a", [200], 5.0), Pieces("other", [200], 9.0), Pieces("same", [290], 5.0)]
    assert _taken(*works, most=2) == ["a", "same"]
    assert _taken(*works, most=3) == ["a", "same", "other"]


def test_the_nearest_length_comes_first() -> None:
    works = [Pieces("a", [200]), Pieces("longer", [380]), Pieces("near", [220])]
    assert _taken(*works, most=2) == ["a", "near"]


def test_a_full_window_does_not_hold_a_short_one_up() -> None:
    works = [Pieces("short", [120]), Pieces("long", [384] * 9), Pieces("shorter", [10])]
    assert _taken(*works, most=8) == ["short", "shorter"]
    assert _taken(*works[1:], most=8) == ["long", "long"]


def test_a_batch_is_bounded_by_its_tokens() -> None:
    assert len(_taken(Pieces("a", [BATCH_TOKENS // 4] * 9), most=8)) == 4
    assert len(_taken(Pieces("a", [BATCH_TOKENS + 1] * 9), most=8)) == 1


def test_a_short_request_waits_for_one_batch_of_the_long_ones() -> None:
    waiting = _waiting(*(Pieces(f"long {number}", [384] * 99) for number in range(10)))
    for _ in range(41):
        waiting.take(8)
    waits = []
    for number in range(8):
        loop = asyncio.new_event_loop()
        waiting.add(Job([Pieces("short", [60])], loop.create_future(), 0.0))
        loop.close()
        waits.append(0)
        while all(window.work.name != "short" for window in waiting.take(8)):  # type: ignore[attr-defined]
            waits[number] += 1
    assert max(waits) <= 1


def test_a_long_request_goes_on_while_short_ones_keep_coming() -> None:
    waiting = _waiting(Pieces("long", [384] * 20))
    order = []
    while len(waiting) and len(order) < 999:
        loop = asyncio.new_event_loop()
        while len(waiting) < 64:
            waiting.add(Job([Pieces("short", [60])], loop.create_future(), 0.0))
        loop.close()
        order.append(waiting.take(8)[0].work.name)  # type: ignore[attr-defined]
        if order.count("long") == 10:
            break
    assert order.count("long") == 10
    assert len(order) <= 100


def test_long_requests_share() -> None:
    waiting = _waiting(Pieces("a", [384] * 50), Pieces("b", [384] * 50))
    taken = [window.work.name for _ in range(24) for window in waiting.take(8)]  # type: ignore[attr-defined]
    assert abs(taken.count("a") - taken.count("b")) <= 4


def test_who_leaves_takes_all_windows_along() -> None:
    waiting = Waiting()
    loop = asyncio.new_event_loop()
    jobs = [Job([Pieces(name, [384] * 5)], loop.create_future(), 0.0) for name in "ab"]
    loop.close()
    for job in jobs:
        waiting.add(job)
    waiting.take(2)
    waiting.discard(jobs[0])
    assert len(waiting) == 5
    assert {window.job for window in waiting.take(8)} == {jobs[1]}
    waiting.discard(jobs[0])
    assert len(waiting) == 3


@pytest.mark.parametrize(
    ("size", "used", "fit"),
    [(8, 0, True), (9, 0, False), (1, 7, True), (1, 8, False), (4, 1, True), (5, 1, False)],
)
def test_a_large_request_leaves_room_for_small_ones(size: int, used: int, fit: bool) -> None:
    assert fits(size, used=used, limit=8) == fit


QUERY = Query(question="q", context="c")


def _run(call: Callable[[], Any]) -> Any:
    worker = Worker("test")
    try:
        return asyncio.run(worker.run(call))
    finally:
        worker.close()


def test_a_failure_comes_back_as_it_was() -> None:
    def fail() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        _run(fail)


class Panic(BaseException):
    """As libraries of Rust raise them."""


def test_a_panic_ends_neither_the_thread_nor_the_event_loop() -> None:
    def panic() -> None:
        raise Panic("a secret")

    worker = Worker("test")

    async def scene() -> str:
        async with asyncio.timeout(10):
            with pytest.raises(RuntimeError, match="a secret"):
                await worker.run(panic)
            return await worker.run(lambda: "alive")

    try:
        assert asyncio.run(scene()) == "alive"
    finally:
        worker.close()


def test_replies_must_be_as_many_as_queries() -> None:
    class Mute:
        card: dict[str, Any] = {}

        def answer_batch(self, _: Sequence[Query]) -> list[Reply]:
            return []

    steps = WholeSteps(Mute())
    works = steps.prepare([QUERY])
    with pytest.raises(RuntimeError, match="1 queries got 0 replies"):
        _run(lambda: steps.run([(works[0], 0)]))


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


@pytest.mark.parametrize("limit", ["queue", "max_windows"])
def test_a_request_larger_than_allowed_is_refused_for_good(toy: Any, limit: str) -> None:
    async def scene() -> None:
        async with _running(toy, **{limit: 2}) as dispatcher:
            with pytest.raises(Refusal, match="at most 2 windows of the model, got 3") as refusal:
                await dispatcher.submit([_query("a")] * 3)
            assert (refusal.value.status, refusal.value.retry_after) == (413, None)

    _play(scene)
    assert toy.batches == []


class Cutter:
    """Cuts contexts into windows of one word; `gate` holds the model at each batch."""

    card: dict[str, Any] = {}

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.batches: list[list[str]] = []
        self.finished: list[str] = []

    def answer_batch(self, queries: Sequence[Query]) -> list[Reply]:
        raise AssertionError("It is asked in steps.")

    def prepare(self, queries: Sequence[Query]) -> list[Pieces]:
        return [Pieces(one.question, [384] * len(one.context.split())) for one in queries]

    def run(self, windows: Sequence[tuple[Pieces, int]]) -> None:
        self.batches.append([work.name for work, _ in windows])
        assert self.gate.acquire(timeout=30)
        for work, number in windows:
            if work.name == "fail":
                raise RuntimeError("a secret")
            work.done.append(number)

    def finish(self, work: Pieces) -> Reply:
        assert sorted(work.done) == list(range(len(work.tokens)))
        self.finished.append(work.name)
        if work.name == "unfinished":
            raise RuntimeError("a secret")
        return Reply(answers=(), lengths=None, windows=len(work.tokens), milliseconds=1.0)


def _long(name: str, words: int) -> list[Query]:
    return [Query(question=name, context="word " * words)]


def _cut(scene: Callable[[Dispatcher, Cutter], Awaitable[T]], **limits: Any) -> Cutter:
    cutter = Cutter()

    async def whole() -> None:
        settings = Settings(**({"batch_wait_ms": 0} | limits))
        dispatcher = Dispatcher(cutter, settings=settings, metrics=Metrics())
        dispatcher.start()
        await scene(dispatcher, cutter)
        cutter.gate.release(999)
        await dispatcher.stop()

    asyncio.run(whole())
    return cutter


def test_a_long_text_is_cut_and_others_go_between() -> None:
    async def scene(dispatcher: Dispatcher, cutter: Cutter) -> None:
        long = asyncio.create_task(dispatcher.submit(_long("long", 20)))
        await _soon(lambda: len(cutter.batches) == 1)
        short = asyncio.create_task(dispatcher.submit(_long("short", 1)))
        await _soon(lambda: dispatcher.depth == 19)
        cutter.gate.release()
        await _soon(lambda: len(cutter.batches) == 2)
        cutter.gate.release()
        assert (await short)[0].windows == 1
        assert not long.done()
        cutter.gate.release(999)
        assert (await long)[0].windows == 20

    cutter = _cut(scene)
    assert cutter.batches[:2] == [["long", "long"], ["short", "long"]]
    assert cutter.finished == ["short", "long"]


@pytest.mark.parametrize("how", ["leaves", "times out"])
def test_the_rest_of_a_departed_request_is_not_run(how: str) -> None:
    async def scene(dispatcher: Dispatcher, cutter: Cutter) -> None:
        long = asyncio.create_task(dispatcher.submit(_long("long", 20)))
        await _soon(lambda: len(cutter.batches) == 1)
        if how == "leaves":
            long.cancel()
        with contextlib.suppress(asyncio.CancelledError, Refusal):
            await long
        assert dispatcher.depth == 0
        cutter.gate.release(999)
        await dispatcher.submit(_long("short", 1))

    cutter = _cut(scene, timeout_s=30 if how == "leaves" else 0.2)
    assert cutter.batches == [["long", "long"], ["short"]]


def test_windows_are_counted_before_they_are_queued() -> None:
    async def scene(dispatcher: Dispatcher, cutter: Cutter) -> None:
        with pytest.raises(Refusal, match="at most 4 windows of the model, got 5") as refusal:
            await dispatcher.submit(_long("large", 5))
        assert refusal.value.status == 413
        tasks = [asyncio.create_task(dispatcher.submit(_long("long", 4)))]
        await _soon(lambda: len(cutter.batches) == 1)
        tasks.append(asyncio.create_task(dispatcher.submit(_long("next", 3))))
        await _soon(lambda: dispatcher.depth == 5)
        with pytest.raises(Refusal, match="5 of 8 windows wait, too many for 3") as refusal:
            await dispatcher.submit(_long("large", 3))
        assert refusal.value.status == 429
        tasks.append(asyncio.create_task(dispatcher.submit(_long("small", 1))))
        await _soon(lambda: dispatcher.depth == 6)
        cutter.gate.release(999)
        assert [reply[0].windows for reply in await asyncio.gather(*tasks)] == [4, 3, 1]

    _cut(scene, queue=8, max_windows=4)


def test_when_to_come_back_follows_from_the_work_that_waits() -> None:
    async def scene(dispatcher: Dispatcher, cutter: Cutter) -> None:
        dispatcher._pace = 3.0
        tasks = [asyncio.create_task(dispatcher.submit(_long("long", 8)))]
        await _soon(lambda: len(cutter.batches) == 1)
        with pytest.raises(Refusal) as refusal:
            await dispatcher.submit(_long("long", 5))
        assert refusal.value.retry_after == 18
        cutter.gate.release(999)
        await asyncio.gather(*tasks)

    _cut(scene, queue=8)


@pytest.mark.parametrize("bad", ["fail", "unfinished"])
def test_a_failure_in_a_step_is_that_of_its_request(
    bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(dispatcher: Dispatcher, cutter: Cutter) -> None:
        cutter.gate.release(999)
        works = [dispatcher.submit(_long(name, 3)) for name in ("a", bad, "b")]
        a, failed, b = await asyncio.gather(*works, return_exceptions=True)
        assert isinstance(failed, Refusal)
        assert failed.status == 500
        assert "secret" not in str(failed)
        assert isinstance(a, list)
        assert isinstance(b, list)

    _cut(scene)
    assert "a secret" in caplog.text


def test_the_rest_of_a_failed_request_is_not_run(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(dispatcher: Dispatcher, cutter: Cutter) -> None:
        cutter.gate.release(999)
        with pytest.raises(Refusal):
            await dispatcher.submit(_long("fail", 40))
        assert dispatcher.depth == 0

    assert len(_cut(scene).batches) == 1
    assert caplog.text.count("The model failed.") == 1


def test_a_text_without_windows_is_answered_at_once() -> None:
    async def scene(dispatcher: Dispatcher, cutter: Cutter) -> None:
        cutter.prepare = lambda queries: [Pieces("empty", [])]  # type: ignore[method-assign]
        assert (await dispatcher.submit(_long("empty", 1)))[0].windows == 0

    assert _cut(scene, timeout_s=5).batches == []


def test_nothing_of_a_request_is_held_after_it() -> None:
    async def scene(dispatcher: Dispatcher, cutter: Cutter) -> None:
        cutter.gate.release(999)
        kept: list[weakref.ref[Pieces]] = []
        prepare = cutter.prepare

        def noting(queries: Sequence[Query]) -> list[Pieces]:
            works = prepare(queries)
            kept.extend(map(weakref.ref, works))
            return works

        cutter.prepare = noting  # type: ignore[method-assign]
        await dispatcher.submit(_long("first", 3))
        await asyncio.sleep(0.05)
        gc.collect()
        assert kept
        assert [one() for one in kept] == [None]

    _cut(scene)


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


def test_memory_is_given_back_after_a_long_text(monkeypatch: pytest.MonkeyPatch) -> None:
    given = threading.Event()
    monkeypatch.setattr(dispatcher_module, "TRIM_S", 0.0)
    monkeypatch.setattr(dispatcher_module, "give_memory_back", given.set)

    async def scene(dispatcher: Dispatcher, cutter: Cutter) -> None:
        cutter.gate.release(999)
        await dispatcher.submit(_long("short", 1))
        assert not given.is_set()
        await dispatcher.submit([Query(question="long", context="x" * 20_000)])
        await _soon(given.is_set)

    _cut(scene)


def test_the_model_is_waited_for_when_the_process_ends(toy: Any) -> None:
    dispatcher = Dispatcher(toy, settings=Settings(batch_wait_ms=0), metrics=Metrics())

    async def scene() -> None:
        dispatcher.start()
        await _occupied(toy, dispatcher)  # and no stop: a second signal ends the event loop

    _play(scene)
    threading.Timer(0.2, toy.gate.set).start()
    dispatcher.leave()
    assert toy.gate.is_set()
    assert not {"quala-model", "quala-short"} & {one.name for one in threading.enumerate()}


@pytest.mark.parametrize(("size", "thread"), [(16_383, "short"), (16_384, "long")])
def test_a_long_text_or_pair_is_dealt_with_in_a_thread_of_its_own(size: int, thread: str) -> None:
    for query in (
        Query(question="q", context="x" * size),
        TextQuery(text="q", pair="x" * size),
        TextQuery(text="x" * (size + 1)),
    ):
        assert Dispatcher._thread([query]) == thread


def test_memory_can_be_given_back() -> None:
    give_memory_back()
