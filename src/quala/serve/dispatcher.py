"""Queries wait in a queue; one thread answers them in batches."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Protocol

from quala.data.decode import NotFinite
from quala.errors import QualaError
from quala.runtime.card import Query, Reply
from quala.serve.errors import Refusal
from quala.serve.middleware import Metrics
from quala.serve.settings import Settings


class Answerer(Protocol):
    """A loaded model that answers questions."""

    @property
    def card(self) -> Mapping[str, Any]:
        """The facts of `quala.json`: name, task, format and the points of the front."""

    def answer_batch(self, queries: Sequence[Query]) -> list[Reply]:
        """Answer each query at its own budget. Raises QualaError for input that it refuses."""


SHORT = 512
"""Characters below which a text costs about as much as any shorter one."""
LIKE = 4.0
"""Texts whose lengths differ by no more than this factor may go together."""


@dataclass(eq=False, slots=True)
class Job:
    """A query, when it came (loop time), and where its reply goes."""

    query: Query
    future: asyncio.Future[Reply]
    came: float
    work: int = field(init=False)

    def __post_init__(self) -> None:
        self.work = max(len(self.query.question) + len(self.query.context), SHORT)


class Waiting:
    """The queries that wait, the oldest first."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def oldest(self) -> Job:
        """The query that has waited longest."""
        return self._jobs[0]

    def add(self, jobs: Iterable[Job]) -> None:
        """Append jobs."""
        self._jobs.extend(jobs)

    def discard(self, jobs: Iterable[Job]) -> None:
        """Take jobs out, those that still wait."""
        gone = set(jobs)
        self._jobs = [job for job in self._jobs if job not in gone]

    def take(self, most: int) -> list[Job]:
        """Take the oldest and up to `most` - 1 others that are most like it.

        Those of the same budget come first, then those of the nearest length; texts of a very
        different length wait for the next batch, so that a short one is not held up by a long
        one. Since the oldest always goes, none waits for ever.
        """
        first = self.oldest
        others = [job for job in self._jobs[1:] if _apart(first, job) <= math.log(LIKE)]
        others.sort(key=lambda job: (job.query.budget != first.query.budget, _apart(first, job)))
        taken = [first, *others[: most - 1]]
        self.discard(taken)
        return taken


def _apart(one: Job, other: Job) -> float:
    return abs(math.log(one.work / other.work))


Answers = Callable[[Sequence[Query]], list[Reply]]
Call = tuple[Sequence[Query], Future[list[Reply]]]


class Worker:
    """Runs one call after the other in a daemon thread.

    A thread of a pool would be waited for at exit; a model that hangs must not hold the process.
    """

    def __init__(self, answer: Answers) -> None:
        self._answer = answer
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        threading.Thread(target=self._serve, name="quala-answers", daemon=True).start()

    async def run(self, queries: Sequence[Query]) -> list[Reply]:
        """Return the replies, or raise what the model raised."""
        future: Future[list[Reply]] = Future()
        self._calls.put((queries, future))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the thread after the calls that wait."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            queries, future = call
            if not future.set_running_or_notify_cancel():
                continue
            try:
                replies = self._answer(queries)
                if len(replies) != len(queries):
                    raise RuntimeError(f"{len(queries)} queries got {len(replies)} replies.")
            # Whatever the model raises belongs to the caller; this thread must outlive it.
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(replies)


LOG = logging.getLogger("quala.serve")


class Dispatcher:
    """Takes what waits, up to `max_batch`, and has one worker thread answer it.

    All methods belong to the event loop's thread.
    """

    def __init__(self, answerer: Answerer, *, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self._answerer = answerer
        self._metrics = metrics
        self._waiting = Waiting()
        self._open = 0
        self._closed = True
        self._changed = asyncio.Event()
        self._worker: Worker | None = None
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
        """The number of queries that wait for the model."""
        return len(self._waiting)

    def start(self) -> None:
        """Begin to answer."""
        self._closed = False
        self._worker = Worker(self._answerer.answer_batch)
        self._loop = asyncio.create_task(self._dispatch(self._worker))

    def close(self) -> None:
        """Refuse new queries; those that wait are still answered."""
        self._closed = True
        self._changed.set()

    async def stop(self) -> None:
        """Close, and return when all that waited is answered or has timed out."""
        self.close()
        await self._until(lambda: self.idle)
        if self._loop is not None and self._worker is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
            self._worker.close()

    async def submit(self, queries: Sequence[Query]) -> list[Reply]:
        """Return the replies, all or none.

        Raises Refusal when closed, when the queue has no room for all of them, and when the time
        limit passes; QualaError for input that the model refuses. Whatever ends the wait, a
        cancellation included, also takes what still waits out of the queue.
        """
        self._require_room(len(queries))
        loop = asyncio.get_running_loop()
        jobs = [Job(query, loop.create_future(), loop.time()) for query in queries]
        self._open += 1
        self._waiting.add(jobs)
        self._changed.set()
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                return await asyncio.gather(*(job.future for job in jobs))
        except TimeoutError:
            limit = f"{self.settings.timeout_s:g} s"
            raise Refusal(504, f"There was no answer within {limit}.", retry_after=1) from None
        finally:
            self._open -= 1
            for job in jobs:
                job.future.cancel()
            self._waiting.discard(jobs)
            self._changed.set()

    def _require_room(self, count: int) -> None:
        limit = self.settings.queue
        if self._closed:
            raise Refusal(503, "The service is stopping.", retry_after=5)
        if count > limit:
            raise QualaError(f"A request may carry at most {limit} queries, got {count}.")
        if len(self._waiting) + count > limit:
            raise Refusal(429, f"The queue is full ({limit} queries wait).", retry_after=1)

    async def _dispatch(self, worker: Worker) -> None:
        while True:
            await self._until(lambda: len(self._waiting) > 0)
            await self._gather()
            if len(self._waiting):  # all of them may have left meanwhile
                jobs = self._waiting.take(self.settings.max_batch)
                self._metrics.batch(len(jobs))
                await self._answer(worker, jobs)

    async def _gather(self) -> None:
        """Give others a moment to join the oldest query, counted from when that one came."""
        due = self._waiting.oldest.came + self.settings.batch_wait_ms / 1000
        full = self.settings.max_batch
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await self._until(lambda: self._closed or not 0 < len(self._waiting) < full)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def _answer(self, worker: Worker, jobs: Sequence[Job]) -> None:
        """Settle each job; where a batch fails, its queries are asked one by one."""
        try:
            replies = await worker.run([job.query for job in jobs])
        # The service outlives any failure of the model; _failure logs what is not expected.
        except Exception as error:
            if len(jobs) == 1:
                _settle(jobs[0], _failure(error))
                return
            for job in jobs:
                if not job.future.done():
                    await self._answer(worker, [job])
        else:
            for job, reply in zip(jobs, replies):
                _settle(job, reply)


def _settle(job: Job, outcome: Reply | Exception) -> None:
    if job.future.done():
        return
    if isinstance(outcome, Exception):
        job.future.set_exception(outcome)
    else:
        job.future.set_result(outcome)


def _failure(error: Exception) -> Exception:
    if isinstance(error, QualaError) and not isinstance(error, NotFinite):
        return error
    LOG.error("The model failed.", exc_info=error)
    why = "The model failed on this input; the service's log says why."
    return Refusal(500, str(error) if isinstance(error, NotFinite) else why)
