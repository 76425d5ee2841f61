"""Listens on a port, serves, and stops after the last reply."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from quala.errors import QualaError
from quala.serve.dispatcher import Dispatcher

GOODBYE_S = 5
"""Time in which a client can read its reply when the service stops."""


def bind(host: str, port: int, *, lowest: int = 0) -> socket.socket:
    """Return a socket bound to the port, to any free one for 0.

    It is bound before the model is loaded, so that a port in use is reported at once. `lowest` is
    the smallest port that the caller takes.

    Raises:
        QualaError: if the port cannot be used.
    """
    if not lowest <= port <= 65535:
        raise QualaError(f"`--port` must be from {lowest} to 65535, got {port}.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        held = socket.socket(family, kind, protocol)
        try:
            # A port that a stopped server has just left is free for the next one.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(address)
        except OSError:
            held.close()
            raise
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(host, port, error) from error
    return held


def url_of(held: socket.socket) -> str:
    """Return the address to open in a browser."""
    host, port = held.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Serves until SIGTERM or SIGINT, then answers what is queued; a second signal ends it."""

    def __init__(self, app: FastAPI, *, ready: Callable[[], None] = lambda: None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="on",
                ws="none",
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GOODBYE_S,
            )
        )
        self._dispatcher: Dispatcher = app.state.dispatcher
        self._ready = ready
        self._leaving = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the signal without raising it again at the end: stopping is not a failure."""
        if self._leaving:
            self.should_exit = self.force_exit = True
        self._leaving = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then call `ready`."""
        await super().startup(sockets=sockets)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        """After a signal, refuse new requests and exit when the last one has its reply."""
        if self._leaving:
            self._dispatcher.close()
            self.should_exit = self.should_exit or self._dispatcher.idle
        return await super().on_tick(counter)


def serve(app: FastAPI, held: socket.socket, *, ready: Callable[[str], None]) -> None:
    """Serve on a bound socket until a signal; `ready` is called with the address."""
    url = url_of(held)
    host, port = held.getsockname()[:2]
    try:
        Server(app, ready=lambda: ready(url)).run(sockets=[held])
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # Another process has begun to listen since the socket was bound.
        raise _cannot_listen(host, port, error) from error


def _cannot_listen(host: str, port: int, error: Exception) -> QualaError:
    reason = getattr(error, "strerror", None) or str(error)
    return QualaError(f"Cannot listen on {host}:{port}: {reason}; choose another `--port`.")
