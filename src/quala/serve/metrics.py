"""What the service counts, in Prometheus' text format."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
        """Read the queue's depth from `depth` whenever the metrics are asked for."""
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
        """Pass everything on and note the status and the time."""
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
