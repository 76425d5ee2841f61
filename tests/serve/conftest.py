"""A toy that stands for a model: it answers with capitalised words, and tests can hold it."""

from __future__ import annotations

import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from exported import export_folder
from fastapi import FastAPI
from starlette.testclient import TestClient

from quala.errors import QualaError
from quala.runtime.card import Answer, Layer, Query, Reply
from quala.serve.app import create_app
from quala.serve.server import Server, bind, url_of
from quala.serve.settings import Settings

__all__ = ["ToyAnswerer", "client", "export_folder", "serve", "toy", "until"]

PATIENCE_S = 30
LENGTHS = (
    (248, 160, 104, 72, 48, 32),
    (264, 264, 264, 264, 144, 8),
    (384, 384, 320, 320, 72, 8),
    (384, 384, 384, 384, 128, 48),
    (384, 384, 384, 384, 240, 80),
    (384, 384, 384, 384, 384, 384),
)
FRONT = tuple(
    {"lengths": list(lengths), "f1": f1, "gmacs": gmacs, "ms": {"32": ms / 8, "384": 2 * ms}}
    for lengths, f1, gmacs, ms in zip(
        LENGTHS,
        (58.9, 66.3, 71.9, 73.7, 74.9, 75.5),
        (1.578, 2.704, 3.357, 3.808, 4.076, 4.759),
        (6.1, 9.7, 12.2, 13.4, 14.9, 17.3),
    )
)


class ToyAnswerer:
    """Answers with the capitalised words of the context.

    A budget of 27 ms buys its fourth point. It refuses the question `refuse`, fails on `fail`,
    waits at `hold FILE` until the file exists, and holds every batch while `gate` is closed.
    `batches` is what it was asked.
    """

    def __init__(self, card: Mapping[str, Any] | None = None) -> None:
        self.card: Mapping[str, Any] = card or {
            "name": "toy-minilm",
            "task": "question-answering",
            "format": 1,
            "precision": "int8",
            "front": FRONT,
        }
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches: list[list[Query]] = []

    @property
    def questions(self) -> list[list[str]]:
        return [[query.question for query in batch] for batch in self.batches]

    def warm(self) -> None:
        """Note that every point was compiled before the service opened."""
        self.warmed = True

    def answer_batch(self, queries: Sequence[Query]) -> list[Reply]:
        self.batches.append(list(queries))
        self.entered.set()
        if not self.gate.wait(PATIENCE_S):
            raise TimeoutError("The gate stayed closed.")
        return [self._reply(query) for query in queries]

    def _reply(self, query: Query) -> Reply:
        word, _, rest = query.question.partition(" ")
        if word == "refuse":
            raise QualaError("The toy refuses.")
        if word == "fail":
            raise RuntimeError("a secret of the toy")
        if word == "hold":
            Path(f"{rest}.entered").touch()
            _until(Path(rest).exists)
        answers = _answers(query.context)[: query.top_k]
        layers = _layers(query, answers[0]) if query.survivors and answers else ()
        return Reply(
            answers=tuple(answers),
            lengths=LENGTHS[3] if query.budget.ms == 27 else query.budget.lengths,
            windows=1,
            milliseconds=12.34,
            note="The fastest point answers." if query.budget.ms == 0.5 else None,
            layers=layers,
        )


def _answers(context: str) -> list[Answer]:
    names = list(re.finditer(r"[A-Z]\w+(?: [A-Z]\w+)*", context))
    names.sort(key=lambda match: -match.group().count(" "))
    return [
        Answer(match.group(), match.start(), match.end(), 9.0 - rank, 0.86 * 0.14**rank)
        for rank, match in enumerate(names)
    ]


def _layers(query: Query, answer: Answer) -> tuple[Layer, ...]:
    tokens = [match.span() for match in re.finditer(r"\w+|[^\w\s]", query.context)]

    def worth(span: tuple[int, int]) -> float:
        noise = zlib.crc32(query.context[slice(*span)].encode()) % 300
        return abs(span[0] - answer.start) / 2 + noise

    ranked = sorted(tokens, key=worth)
    asked = len(query.question.split()) + 2
    layers = []
    for length in query.budget.lengths or LENGTHS[-1]:
        kept = max(1, round(len(tokens) * length / 384))
        spans = tuple(sorted(ranked[:kept]))
        layers.append(Layer(kept=kept + asked, tokens=len(tokens) + asked, spans=spans))
    return tuple(layers)


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("It did not come to that.")
        time.sleep(0.005)


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait for a condition; fail when it never holds."""
    return _until


@pytest.fixture
def toy() -> Iterator[ToyAnswerer]:
    """A toy whose gate is open, and is open again at the end."""
    answerer = ToyAnswerer()
    yield answerer
    answerer.gate.set()


@pytest.fixture
def client(toy: ToyAnswerer) -> Iterator[TestClient]:
    """A client of a service around the toy, with its default limits."""
    app = create_app(toy, Settings())
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


Serve = Callable[[FastAPI], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve an app on a free port from a thread and return its address."""
    running: list[tuple[Server, threading.Thread]] = []
    servers: list[Server] = []

    def start(app: FastAPI) -> str:
        held = bind("127.0.0.1", 0)
        address, opened = url_of(held), threading.Event()
        server = Server(app, ready=opened.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [held]})
        thread.start()
        running.append((server, thread))
        servers.append(server)
        assert opened.wait(PATIENCE_S)
        return address

    start.servers = servers  # type: ignore[attr-defined]
    yield start
    for server, thread in running:
        server.handle_exit(0, None)
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
