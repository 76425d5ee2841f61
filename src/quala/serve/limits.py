"""Request bodies are read whole before anything else, up to a size and within a time."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quala.serve.refusal import Refusal
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
            # What the client still sends is not read: the connection cannot be used again.
            response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _replayed(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body, None where the client left before its end."""
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
    """Return a `receive` that yields the body once, then whatever the server says next."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
