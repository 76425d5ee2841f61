"""Body limits, whatever the client announces."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from quala.serve.app import create_app
from quala.serve.middleware import MOST_BODIES, PROBES, CountRequests, LimitBodies, Metrics
from quala.serve.settings import Settings

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def small(toy: Any) -> Any:
    with TestClient(create_app(toy, Settings(max_request_kib=1))) as client:
        yield client


def test_an_announced_body_is_refused_unread(small: TestClient) -> None:
    response = small.post("/answer", content=b"x" * 1025, headers=JSON)
    assert response.status_code == 413
    assert response.json() == {"error": "A request may have at most 1 KiB."}


def test_a_chunked_body_is_refused_as_it_grows(small: TestClient) -> None:
    response = small.post("/answer", content=iter([b"x" * 600] * 3), headers=JSON)
    assert response.status_code == 413


def test_a_body_at_the_limit_passes(small: TestClient) -> None:
    body = b'{"question": "q", "context": "Ada'
    body += b" " * (1024 - len(body) - 2) + b'"}'
    assert small.post("/answer", content=iter([body[:500], body[500:]]), headers=JSON).is_success


def _refused(*messages: Message, seconds: float = 30) -> list[Message]:
    """Return what is sent where `messages` arrive and then nothing more."""
    sent: list[Message] = []
    waiting = list(messages)

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    async def never(*_: object) -> None:
        raise AssertionError("The application was called.")

    scope = {"type": "http", "method": "POST", "path": "/answer", "headers": []}
    asyncio.run(LimitBodies(never, limit=10, seconds=seconds)(scope, receive, send))
    return sent


def test_a_slow_body_is_given_up() -> None:
    part = {"type": "http.request", "body": b"x", "more_body": True}
    assert _refused(part, seconds=0.01)[0]["status"] == 408


def test_a_client_that_leaves_is_let_go() -> None:
    part = {"type": "http.request", "body": b"x", "more_body": True}
    assert _refused(part, {"type": "http.disconnect"}) == []


def test_counts(client: TestClient) -> None:
    good = {"question": "q", "context": "Ada"}
    client.post("/answer", json=good)
    client.post("/answer", json={"queries": [good, good]})
    client.post("/answer", json={"question": "q"})
    client.get("/health")
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = response.text.splitlines()
    for line in (
        'quala_requests_total{status="200"} 2.0',
        'quala_requests_total{status="422"} 1.0',
        "quala_request_seconds_count 3.0",
        "quala_batch_size_count 2.0",
        "quala_batch_size_sum 3.0",
        "quala_queue_depth 0.0",
    ):
        assert line in lines


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost.:8000", 200),
        ("[::1]:80", 200),
        ("[::1]", 200),
        ("127.0.0.1:1", 200),
        ("evil.example", 421),
        ("evil.example:8000", 421),
        ("localhost.evil.example", 421),
        ("[::2]:80", 421),
        ("[", 421),
        (":80", 421),
        ("127.0.0.1@evil", 421),
        ("[::1].evil.example", 421),
        ("localhost:80.evil.example", 421),
    ],
)
def test_foreign_hosts_are_refused(toy: Any, host: str, status: int) -> None:
    app = create_app(toy, Settings(allowed_hosts=("localhost", "127.0.0.1", "[::1]")))
    with TestClient(app) as client:
        for path in ("/health", "/", "/card"):
            response = client.get(path, headers={"Host": host})
            assert response.status_code == status
        for path in PROBES:  # asked by the address of a pod
            assert client.get(path, headers={"Host": host}).status_code == 200
        response = client.post(
            "/answer", json={"question": "q", "context": "Ada"}, headers={"Host": host}
        )
    assert response.status_code == status
    if status == 421:
        assert "`--allowed-hosts`" in response.json()["error"]
        assert response.headers["Connection"] == "close"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_length_and_chunks_at_once_are_refused(toy: Any, method: str) -> None:
    both = {"Content-Length": "5", "Transfer-Encoding": "chunked"}
    with TestClient(create_app(toy, Settings())) as client:
        response = client.request(method, "/health", headers=both)
    assert response.status_code == 400
    assert response.headers["Connection"] == "close"
    assert "not both" in response.json()["error"]


def test_bodies_together_are_bounded() -> None:
    async def scene() -> None:
        limits = LimitBodies(_never, limit=10, seconds=30)
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def stalled() -> Message:
            if not (parts := waiting):
                await asyncio.Event().wait()
            return parts.pop()

        part = {"type": "http.request", "body": b"x" * 10, "more_body": True}
        tasks = []
        for _ in range(MOST_BODIES):
            waiting = [part]
            tasks.append(asyncio.create_task(limits(SCOPE, stalled, send)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert sent
        assert {message["status"] for message in sent if "status" in message} == {429}
        assert limits._held >= 10 * MOST_BODIES / 2
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert limits._held == 0

    asyncio.run(scene())


SCOPE = {"type": "http", "method": "POST", "path": "/answer", "headers": []}


async def _never(*_: object) -> None:
    raise AssertionError("The application was called.")


def test_who_leaves_counts_as_499() -> None:
    metrics = Metrics()

    async def read(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        await receive()

    async def gone() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    for app in (read, answer):
        asyncio.run(CountRequests(app, metrics=metrics, path="/answer")(SCOPE, gone, send))
    assert b'quala_requests_total{status="499"} 2.0' in metrics.text()
