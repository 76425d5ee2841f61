"""Middleware: limits on request bodies, and counts for Prometheus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quala.serve.errors import Refusal
from quala.serve.settings import KIB

BODILESS = ("GET", "HEAD", "OPTIONS")


class LimitBodies:
    """Middleware that refuses a body above `limit` bytes (413) or slower than `seconds` (408)."""

    def __init__(self, app: ASGIApp, *, limit: int, seconds: float) -> None:
        self._app = app
        self._limit = limit
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, then pass the request on with it."""
        if scope["type"] != "http" or scope["method"] in BODILESS:
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read(scope, receive)
        except Refusal as refusal:
            response = refusal.response()
            # The rest of the body is not read: the connection cannot be used again.
            response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _replayed(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body, None if the client disconnected before its end."""
        announced = Headers(scope=scope).get("content-length", "")
        self._require(int(announced) if announced.isdecimal() else 0)
        body = bytearray()
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    self._require(len(body))
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            limit = f"{self._seconds:g} s"
            raise Refusal(408, f"The request did not arrive within {limit}.") from None

    def _require(self, size: int) -> None:
        if size > self._limit:
            raise Refusal(413, f"A request may have at most {self._limit // KIB} KiB.")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields the body once, then the server's own messages."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


class Metrics:
    """Counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._requests = Counter(
            "quala_requests", "Requests to /answer by HTTP status.", ["status"], registry=registry
        )
        self._seconds = Histogram(
            "quala_request_seconds",
            "Time from a request's head to the end of its response.",
            buckets=SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "quala_batch_size", "Queries per batch.", buckets=SIZES, registry=registry
        )
        self._depth = Gauge(
            "quala_queue_depth", "Queries that wait for the model.", registry=registry
        )

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """Read the length of the queue from `depth` at each request for metrics."""
        self._depth.set_function(depth)

    def request(self, status: int, *, seconds: float) -> None:
        """Count a finished request."""
        self._requests.labels(str(status)).inc()
        self._seconds.observe(seconds)

    def batch(self, size: int) -> None:
        """Count a batch."""
        self._batches.observe(size)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)


class CountRequests:
    """Middleware that counts the requests to one path."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, path: str) -> None:
        self._app = app
        self._metrics = metrics
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; record its status and time."""
        if scope["type"] != "http" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            self._metrics.request(status, seconds=time.perf_counter() - started)
