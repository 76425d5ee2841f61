"""The thread: replies and failures come back, whatever happens."""

from __future__ import annotations

import asyncio

import pytest

from quala.runtime.card import Query, Reply
from quala.serve.dispatcher import Answers, Worker

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
