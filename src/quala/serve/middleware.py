"""Middleware: limits on requests, and counts for Prometheus."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quala.serve.errors import Refusal, error_response
from quala.serve.settings import KIB, fits

BODILESS = ("GET", "HEAD", "OPTIONS")
NAMED = re.compile(r"(\[[^]]*\]|[^:]+)(?::\d*)?")
"""A host and its port."""
CLOSE = {"Connection": "close"}
"""Of a response before the body was read: what comes next on the connection is not trusted."""


PROBES = ("/livez", "/readyz")
"""What an orchestrator asks, by an address that nobody knows beforehand."""


class CheckHost:
    """Middleware that answers only requests to some hosts, at any port (else 421).

    A page of a foreign site whose name leads here (DNS rebinding) names that site as the host.
    `PROBES` are answered for any host.
    """

    def __init__(self, app: ASGIApp, *, hosts: Sequence[str]) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on when its host is one of them; HTTP/1.0 may name none."""
        named = Headers(scope=scope).get("host", "") if scope["type"] == "http" else ""
        parts = NAMED.fullmatch(named)
        host = (parts[1] if parts else named).rstrip(".").lower()
        if not host or host in self._hosts or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        sentence = f"The host `{host[:100]}` is not served here; `--allowed-hosts` names others."
        await error_response(421, sentence, headers=CLOSE)(scope, receive, send)


MOST_BODIES = 32
"""Largest bodies that the service holds at once, so that memory is bounded."""


class LimitBodies:
    """Middleware that refuses a body above `limit` bytes (413) or slower than `seconds` (408).

    All bodies together may have `MOST_BODIES` times the limit (429). `admit` may raise a Refusal
    before anything else is done with a body: under overload most requests end here.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limit: int,
        seconds: float,
        admit: Callable[[], None] = lambda: None,
    ) -> None:
        self._app = app
        self._admit = admit
        self._limit = limit
        self._seconds = seconds
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, then pass the request on with it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if {"content-length", "transfer-encoding"}.issubset(Headers(scope=scope)):
            # A proxy that reads the one would take the rest for another client's request.
            sentence = "A request has a length or comes in chunks, not both."
            await error_response(400, sentence, headers=CLOSE)(scope, receive, send)
            return
        if scope["method"] in BODILESS:
            await self._app(scope, receive, send)
            return
        body, whole = bytearray(), False
        try:
            whole = await self._read(scope, receive, body)
            if whole:
                self._admit()
                await self._app(scope, _replayed(bytes(body), receive), send)
        except Refusal as refusal:
            response = refusal.response()
            if not whole:
                response.headers.update(CLOSE)
            await response(scope, receive, send)
        finally:
            self._held -= len(body)

    async def _read(self, scope: Scope, receive: Receive, body: bytearray) -> bool:
        """Fill `body`; return whether the client has stayed to its end."""
        announced = Headers(scope=scope).get("content-length", "")
        self._require(int(announced) if announced.isdecimal() else 0, held=0)
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return False
                    part = message.get("body", b"")
                    self._require(len(body) + len(part), held=len(body))
                    body += part
                    self._held += len(part)
                    if not message.get("more_body", False):
                        return True
        except TimeoutError:
            limit = f"{self._seconds:g} s"
            raise Refusal(408, f"The request did not arrive within {limit}.") from None

    def _require(self, size: int, *, held: int) -> None:
        if size > self._limit:
            raise Refusal(413, f"A request may have at most {self._limit // KIB} KiB.")
        if size and not fits(size, used=self._held - held, limit=MOST_BODIES * self._limit):
            sentence = "The service holds as much text as it may; a shorter one may have room."
            raise Refusal(429, sentence, retry_after=1)


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
            "quala_requests", "Requests by HTTP status.", ["status"], registry=registry
        )
        self._seconds = Histogram(
            "quala_request_seconds",
            "Time from a request's head to the end of its response.",
            buckets=SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "quala_batch_size", "Windows per batch.", buckets=SIZES, registry=registry
        )
        self._depth = Gauge(
            "quala_queue_depth", "Windows that wait for the model.", registry=registry
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
    """Middleware that counts the requests to one path; clients that left count as 499."""

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
        status, done = 500, False

        async def hearing() -> Message:
            nonlocal status
            message = await receive()
            if message["type"] == "http.disconnect" and not done:
                status = 499
            return message

        async def noting(message: Message) -> None:
            nonlocal status, done
            if message["type"] == "http.response.start" and status != 499:
                status = message["status"]
            done = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, hearing, noting)
        finally:
            self._metrics.request(status, seconds=time.perf_counter() - started)
