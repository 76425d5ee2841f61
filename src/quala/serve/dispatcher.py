"""Windows wait in a queue; one thread runs them in batches, whichever requests they are of."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import math
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain, islice
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar, runtime_checkable

from quala.data.decode import NotFinite
from quala.errors import QualaError
from quala.runtime.card import Query, Reply
from quala.runtime.prediction import Prediction, TextQuery
from quala.serve.errors import Refusal
from quala.serve.middleware import Metrics
from quala.serve.settings import Settings, fits

T = TypeVar("T")


class Work(Protocol):
    """A query as windows."""

    @property
    def tokens(self) -> Sequence[int]:
        """The tokens of each window."""

    @property
    def group(self) -> Hashable:
        """Windows of equal groups gain most from running together."""


Asked = Query | TextQuery
Said = Reply | Prediction


class Model(Protocol):
    """A loaded model.

    One that has the methods of `Steps` is asked for some windows at a time, so that a long text
    does not hold up others. Any other must have `answer_batch`, which answers in one piece.
    """

    @property
    def card(self) -> Mapping[str, Any]:
        """The facts of `quala.json`: name, task, format and the points of the front."""


@runtime_checkable
class Steps(Protocol):
    """The steps of a reply; the first and the last may run in other threads than `run`."""

    def prepare(self, queries: Sequence[Any]) -> Sequence[Any]:
        """Return a `Work` for each query. Raises QualaError for input that is refused."""

    def run(self, windows: Sequence[tuple[Any, int]]) -> None:
        """Run some windows, each named by its `Work` and its number within it."""

    def finish(self, work: Any) -> Any:
        """Return the reply of a query whose windows have all run."""


@dataclass(eq=False, slots=True)
class Whole:
    """A query that is answered in one piece."""

    query: Query
    reply: Reply | None = None

    @property
    def tokens(self) -> Sequence[int]:
        """A guess, by the characters."""
        return [1 + (len(self.query.question) + len(self.query.context)) // 4]

    @property
    def group(self) -> Hashable:
        """Queries of one budget go together."""
        return self.query.budget


class WholeSteps:
    """Answers each query in one piece."""

    def __init__(self, answerer: Any) -> None:
        self._answerer = answerer

    def prepare(self, queries: Sequence[Any]) -> Sequence[Whole]:
        """Return the queries."""
        return [Whole(query) for query in queries]

    def run(self, windows: Sequence[tuple[Any, int]]) -> None:
        """Answer the queries."""
        replies = self._answerer.answer_batch([work.query for work, _ in windows])
        if len(replies) != len(windows):
            raise RuntimeError(f"{len(windows)} queries got {len(replies)} replies.")
        for (work, _), reply in zip(windows, replies):
            work.reply = reply

    def finish(self, work: Any) -> Any:
        """Return the reply."""
        return work.reply


SHORT = 128
"""Tokens below which a window costs about as much as any shorter one."""
LIKE = 2.0
"""Windows whose lengths differ by no more than this factor may go together."""
BATCH_TOKENS = 1024
"""Most tokens of a batch, and so the longest wait of a short window for the batch before it: two
windows of 384 tokens. A batch of more of them takes longer and gains nothing on a CPU."""
TURN = 4
"""Each fourth batch goes to the request that has waited longest, so that none waits for ever."""
LOOK = 256
"""Windows that are compared for a batch; in a longer queue the later ones wait."""


@dataclass(eq=False, slots=True)
class Job:
    """A request: its windows that wait, what it was given, and when it came (loop time)."""

    works: Sequence[Work]
    future: asyncio.Future[None]
    came: float
    rest: list[Window] = field(init=False)
    left: int = field(init=False)
    served: int = 0
    since: int = 0
    """The batch before which it began to wait."""

    def __post_init__(self) -> None:
        self.rest = [
            Window(self, work, number, tokens)
            for work in self.works
            for number, tokens in sorted(enumerate(work.tokens), key=lambda item: -item[1])
        ]
        self.left = len(self.rest)


@dataclass(eq=False, slots=True)
class Window:
    """One window of a request."""

    job: Job
    work: Work
    number: int
    tokens: int

    def apart(self, other: Window) -> float:
        """Return by how much the lengths differ: 0 for about the same time."""
        return abs(math.log(max(self.tokens, SHORT) / max(other.tokens, SHORT)))


class Waiting:
    """The requests whose windows wait, in the order in which they came."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._windows = 0
        self._turn = 0

    def __len__(self) -> int:
        """The number of windows."""
        return self._windows

    @property
    def came(self) -> float:
        """When the first of the requests came."""
        return self._jobs[0].came

    def add(self, job: Job) -> None:
        """Append a request."""
        job.since = self._turn
        self._jobs.append(job)
        self._windows += len(job.rest)

    def discard(self, job: Job) -> None:
        """Take a request out, as far as it still waits."""
        if job in self._jobs:
            self._jobs.remove(job)
            self._windows -= len(job.rest)

    def take(self, most: int) -> list[Window]:
        """Take up to `most` windows: one of the request whose turn it is, and those most like it.

        It is the turn of the request that was given least so far, so that a long one does not
        hold up a short one, and each `TURN`th time of the one that has waited longest. Windows of
        the same group come first, then those of the nearest length, then of who was given least.
        """
        self._turn += 1
        due = self._turn % TURN == 0
        job = min(self._jobs, key=lambda one: (one.since if due else 0, one.served))
        first = job.rest[0]
        ahead = islice(chain.from_iterable(one.rest[:most] for one in self._jobs), LOOK)
        others = [one for one in ahead if one is not first and first.apart(one) <= math.log(LIKE)]
        others.sort(
            key=lambda one: (one.work.group != first.work.group, first.apart(one), one.job.served)
        )
        taken, tokens = [first], first.tokens
        for window in others[: most - 1]:
            tokens += window.tokens
            if tokens > BATCH_TOKENS:
                break
            taken.append(window)
        self._give(taken)
        return taken

    def _give(self, taken: Sequence[Window]) -> None:
        for window in taken:
            window.job.rest.remove(window)
            window.job.served += window.tokens
            window.job.since = self._turn
        self._windows -= len(taken)
        if not all(window.job.rest for window in taken):
            self._jobs = [job for job in self._jobs if job.rest]


Call = tuple[Callable[[], Any], Future[Any]]


class Worker:
    """Runs one call after the other in a daemon thread.

    A thread of a pool would be waited for at exit; a model that hangs must not hold the process.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=f"quala-{name}", daemon=True)
        self._thread.start()

    def start(self, call: Callable[[], T]) -> Future[T]:
        """Return the future result of a call, which is skipped when that is cancelled before."""
        future: Future[T] = Future()
        self._calls.put((call, future))
        return future

    async def run(self, call: Callable[[], T]) -> T:
        """Return what the call returns, or raise what it raises."""
        return await asyncio.wrap_future(self.start(call))

    def close(self, wait_s: float = 0) -> None:
        """End the thread after the calls that wait; wait for that, but not for ever."""
        self._calls.put(None)
        self._thread.join(wait_s)

    def _serve(self) -> None:
        while (item := self._calls.get()) is not None:
            call, future = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            # Whatever the call raises belongs to the caller; this thread must outlive it. A panic
            # of the tokenizer is no Exception, and would end the event loop.
            except BaseException as error:
                known = isinstance(error, Exception)
                future.set_exception(error if known else RuntimeError(repr(error)))
            del item, call, future  # nothing of a request is held while there is none


LOG = logging.getLogger("quala.serve")
LONG = 16_384
"""Characters of a request above which a thread for long ones cuts its text and finds its answers:
half a megabyte takes a second, for which short requests do not wait."""
PATIENCE_S = 60
"""Longest time after which a client is told to come back."""
TRIM_S = 1.0
LEAVE_S = 5.0
"""Longest wait for a batch of the model, or for a text that is prepared, when the process ends."""


def give_memory_back() -> None:
    """Return free memory to the system (glibc), which else keeps up to 200 MB of long texts."""
    getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: None)(0)


class Dispatcher:
    """Takes what waits, up to `max_batch` windows, and has one worker thread run them.

    Other threads cut the texts into windows and find the answers. All methods belong to the
    event loop's thread.
    """

    def __init__(self, model: Model, *, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self._steps = model if isinstance(model, Steps) else WholeSteps(model)
        self._metrics = metrics
        self._waiting = Waiting()
        self._preparing = 0
        self._pace = 0.0
        self._open = 0
        self._closed = True
        self._changed = asyncio.Event()
        self._workers: dict[str, Worker] = {}
        self._loop: asyncio.Task[None] | None = None
        metrics.watch_queue(lambda: len(self._waiting))

    @property
    def closed(self) -> bool:
        """Whether new queries are refused."""
        return self._closed

    @property
    def idle(self) -> bool:
        """Whether no request waits for a reply."""
        return self._open == 0

    @property
    def depth(self) -> int:
        """The number of windows that wait for the model."""
        return len(self._waiting)

    def start(self) -> None:
        """Begin to answer."""
        self._closed = False
        self._workers = {name: Worker(name) for name in ("model", "short", "long")}
        self._loop = asyncio.create_task(self._dispatch())

    def close(self) -> None:
        """Refuse new queries; those that wait are still answered."""
        self._closed = True
        self._changed.set()

    async def stop(self) -> None:
        """Close, and return when all that waited is answered or has timed out."""
        self.close()
        await self._until(lambda: self.idle)
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
        for worker in self._workers.values():
            worker.close()

    def leave(self) -> None:
        """End the threads; called after the event loop.

        One that came back from the model while the interpreter ends would abort the process.
        """
        for worker in self._workers.values():
            worker.close(LEAVE_S)

    async def submit(self, queries: Sequence[Asked]) -> list[Said]:
        """Return the replies, all or none.

        Raises Refusal when closed, for more windows than a request may need, when the queue has
        no room for all of them, and when the time limit passes; QualaError for input that the
        model refuses. Whatever ends the wait, a cancellation included, also takes what still
        waits out of the queue.
        """
        self.admit(len(queries))
        loop = asyncio.get_running_loop()
        job, came = None, loop.time()
        self._open += 1
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                works = await self._prepare(queries)
                job = Job(works, loop.create_future(), came)
                self._require_room(job.left)
                if job.left:
                    self._waiting.add(job)
                    self._changed.set()
                    await job.future
                return await self._finish(queries, works)
        except TimeoutError:
            sentence = f"There was no answer within {self.settings.timeout_s:g} s."
            raise Refusal(504, sentence, retry_after=self._wait()) from None
        finally:
            self._open -= 1
            if job is not None:
                job.future.cancel()
                self._waiting.discard(job)
            self._changed.set()
            if self._thread(queries) == "long":
                loop.call_later(TRIM_S, self._workers["long"].start, give_memory_back)

    def admit(self, windows: int = 1) -> None:
        """Raise Refusal where a request of so many windows would be refused now."""
        if self._closed:
            raise Refusal(503, "The service is stopping.", retry_after=5)
        self._require_room(windows)

    def _require_room(self, windows: int) -> None:
        queue = self.settings.queue
        most = min(self.settings.max_windows, queue)
        if windows > most:
            raise Refusal(
                413,
                f"A request may need at most {most} windows of the model, got {windows}: send a "
                "shorter text or fewer queries.",
            )
        used = len(self._waiting) + self._preparing
        if not fits(windows, used=used, limit=queue):
            raise Refusal(
                429,
                f"The queue is full: {used} of {queue} windows wait, too many for {windows} more.",
                retry_after=self._wait(),
            )

    def _wait(self) -> int:
        """Return the seconds that what waits will take, as a whole number from 1."""
        return min(PATIENCE_S, max(1, math.ceil(self._pace * len(self._waiting))))

    async def _prepare(self, queries: Sequence[Asked]) -> Sequence[Work]:
        self._preparing += len(queries)
        try:
            return await self._aside(queries, lambda: self._steps.prepare(queries))
        finally:
            self._preparing -= len(queries)

    async def _finish(self, queries: Sequence[Asked], works: Sequence[Work]) -> list[Said]:
        if self._thread(queries) == "long":
            return await self._aside(queries, lambda: list(map(self._steps.finish, works)))
        # Under a millisecond for a short text, which must not wait behind texts to be prepared.
        try:
            return list(map(self._steps.finish, works))
        # As in _aside.
        except Exception as error:
            raise _failure(error) from None

    @staticmethod
    def _thread(queries: Sequence[Asked]) -> str:
        texts = [
            (one.question, one.context) if isinstance(one, Query) else (one.text, one.pair or "")
            for one in queries
        ]
        return "short" if sum(map(len, chain.from_iterable(texts))) <= LONG else "long"

    async def _aside(self, queries: Sequence[Asked], call: Callable[[], T]) -> T:
        """Return what a call returns that deals with the text of a request."""
        try:
            return await self._workers[self._thread(queries)].run(call)
        # The service outlives any failure of the model; _failure logs what is not expected.
        except Exception as error:
            raise _failure(error) from None

    async def _dispatch(self) -> None:
        while True:
            await self._until(lambda: len(self._waiting) > 0)
            await self._gather()
            if len(self._waiting):  # all of them may have left meanwhile
                started = time.perf_counter()
                size = await self._run(self._waiting.take(self.settings.max_batch))
                pace = (time.perf_counter() - started) / size
                self._pace += (pace - self._pace) / 8  # the mean of about the last 8 batches

    async def _gather(self) -> None:
        """Give others a moment to join the oldest request, counted from when that one came."""
        due = self._waiting.came + self.settings.batch_wait_ms / 1000
        full = self.settings.max_batch
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await self._until(lambda: self._closed or not 0 < len(self._waiting) < full)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def _run(self, windows: Sequence[Window]) -> int:
        """Run windows and return their number; where a batch fails, each request runs alone."""
        self._metrics.batch(len(windows))
        jobs = list(dict.fromkeys(window.job for window in windows))
        pairs = [(window.work, window.number) for window in windows]
        try:
            await self._workers["model"].run(lambda: self._steps.run(pairs))
        # As above.
        except Exception as error:
            if len(jobs) == 1:
                self._waiting.discard(jobs[0])  # now: the request itself goes on after the next
                failure = _failure(error)
                if not jobs[0].future.done():
                    jobs[0].future.set_exception(failure)
            for job in jobs if len(jobs) > 1 else ():
                if not job.future.done():
                    await self._run([window for window in windows if window.job is job])
        else:
            for window in windows:
                window.job.left -= 1
                if not window.job.left and not window.job.future.done():
                    window.job.future.set_result(None)
        return len(windows)


def _failure(error: Exception) -> Exception:
    if isinstance(error, QualaError) and not isinstance(error, NotFinite):
        return error
    LOG.error("The model failed.", exc_info=error)
    why = "The model failed on this input; the service's log says why."
    return Refusal(500, str(error) if isinstance(error, NotFinite) else why)
