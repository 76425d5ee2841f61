"""One thread that runs the model, so that the event loop stays free."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from quala.runtime.query import Query, Reply

Answers = Callable[[Sequence[Query]], list[Reply]]


class Worker:
    """Runs one call after the other in a daemon thread.

    A thread of a pool would be waited for at exit; a model that hangs must not hold the process.
    """

    def __init__(self, answer: Answers) -> None:
        self._answer = answer
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        threading.Thread(target=self._serve, name="quala-answers", daemon=True).start()

    async def run(self, queries: Sequence[Query]) -> list[Reply]:
        """Return the replies, or raise what the model raised."""
        call = _Call(queries, asyncio.get_running_loop())
        self._calls.put(call)
        return await call.future

    def close(self) -> None:
        """End the thread after the calls that wait."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call.make(self._answer)


class _Call:
    def __init__(self, queries: Sequence[Query], loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[list[Reply]] = loop.create_future()
        self._queries = queries
        self._loop = loop

    def make(self, answer: Answers) -> None:
        try:
            replies = answer(self._queries)
            if len(replies) != len(self._queries):
                raise RuntimeError(f"{len(self._queries)} queries got {len(replies)} replies.")
        # Whatever the model raises belongs to the caller; this thread must outlive it.
        except Exception as error:
            self._hand_over(error)
        else:
            self._hand_over(replies)

    def _hand_over(self, outcome: list[Reply] | Exception) -> None:
        # The loop may have ended meanwhile.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._settle, outcome)

    def _settle(self, outcome: list[Reply] | Exception) -> None:
        if self.future.done():
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)
