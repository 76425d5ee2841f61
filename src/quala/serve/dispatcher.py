"""Dynamic batching: queries of different requests go through the model together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from quala.errors import QualaError
from quala.runtime.query import Query, Reply
from quala.serve.answerer import Answerer
from quala.serve.metrics import Metrics
from quala.serve.queueing import Job, Waiting
from quala.serve.refusal import Refusal
from quala.serve.settings import Settings
from quala.serve.worker import Worker

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
    if isinstance(error, QualaError):
        return error
    LOG.error("The model failed.", exc_info=error)
    return Refusal(500, "The model failed on this input; the service's log says why.")
