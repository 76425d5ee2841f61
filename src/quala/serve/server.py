"""Listens on a port, serves, and stops after the last reply."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import math
import resource
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from h11 import ProtocolError
from uvicorn.protocols.http.h11_impl import H11Protocol

from quala.errors import QualaError
from quala.serve.dispatcher import Dispatcher

LOG = logging.getLogger("quala.serve")
GOODBYE_S = 5
"""Time in which a client can read its reply when the service stops."""
HEAD_S = 10
"""Time in which the head of a request must arrive, and in which a closed connection must end."""
OWN_FILES = 48
"""Descriptors that the process itself needs; about 15 were counted."""
BACKLOG, MOST_CONNECTIONS = 128, 1000
LACKING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
QUIET_S = 60
"""Time between two lines of the log about connections that cannot be accepted."""


def connections(wanted: int | None) -> tuple[int, int]:
    """Return how many connections may be open, and how many more may be accepted at once.

    Together with `OWN_FILES` they stay below the limit of descriptors of this process. Raises
    QualaError when more are wanted than that, or none are left.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return wanted or MOST_CONNECTIONS, BACKLOG
    spare = max(2, limit - OWN_FILES)
    backlog = min(BACKLOG, spare // 2)
    most = spare - backlog
    if limit <= OWN_FILES + 1 or (wanted or 1) > most:
        raise QualaError(
            f"`--max-connections` must be at most {most if limit > OWN_FILES + 1 else 0}, since "
            f"the process may open {limit} files (`ulimit -n`), got {wanted or 'the default'}."
        )
    return wanted or min(MOST_CONNECTIONS, most), backlog


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


def _raw(status: str, sentence: str) -> bytes:
    """Return a response for connections on which no request can be answered."""
    body = json.dumps({"error": sentence}).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


MOST = "most_connections"
"""Of the server's own configuration, which each connection is given."""


class Connection(H11Protocol):
    """A connection that is closed when its client takes too long, or when there are too many."""

    seen: tuple[object, object] = (None, None)
    since = 0.0

    def connection_made(self, transport: Any) -> None:
        """Begin; of too many connections the one that has been silent longest is closed."""
        super().connection_made(transport)
        self.check(math.inf)
        if len(self.connections) <= getattr(self.config, MOST):
            return
        others = [one for one in self.connections if isinstance(one, Connection)]
        silent = [one for one in others if one is not self and one.waits_for == "head"]
        if silent:
            min(silent, key=lambda one: one.since).transport.abort()
        else:
            transport.write(_raw("503 Service Unavailable", "There are too many connections."))
            transport.close()

    @property
    def waits_for(self) -> str | None:
        """What the client has to do next, None where the service has."""
        if self.transport.is_closing():
            return "end"
        if self.flow.write_paused:
            return "reply"
        return "head" if self.cycle is None or self.cycle.response_complete else None

    def check(self, patience: float) -> None:
        """Abort where the client is waited for too long; called each second.

        A head has `HEAD_S` seconds, and so has the end of a closed connection; the reading of a
        reply has `patience` seconds. Bodies have a limit of their own.
        """
        now, kind = time.monotonic(), self.waits_for
        if self.seen != (kind, self.cycle):
            self.seen, self.since = (kind, self.cycle), now
        elif kind and now - self.since > (patience if kind == "reply" else HEAD_S):
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Pass data on; what breaks the protocol beyond an answer ends the connection."""
        try:
            super().data_received(data)
        except ProtocolError:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP with a sentence, where no other answer has begun."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(_raw("400 Bad Request", "This is not a valid HTTP request."))
            self.transport.close()
        else:
            self.transport.abort()
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()


class Server(uvicorn.Server):
    """Serves until SIGTERM or SIGINT, then answers what is queued; a second signal ends it."""

    def __init__(self, app: FastAPI, *, ready: Callable[[], None] = lambda: None) -> None:
        self._dispatcher: Dispatcher = app.state.dispatcher
        most, backlog = connections(self._dispatcher.settings.max_connections)
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                lifespan="on",
                ws="none",
                log_level="error",  # warnings are about what clients send
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nothing here depends on who asks
                backlog=backlog,
                timeout_graceful_shutdown=GOODBYE_S,
            )
        )
        setattr(self.config, MOST, most)
        self._ready = ready
        self._leaving = False
        self._lacked = -math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the signal without raising it again at the end: stopping is not a failure."""
        if self._leaving:
            self.should_exit = self.force_exit = True
            # The end of the event loop cancels what runs, which uvicorn takes for a failure.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._leaving = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then call `ready`."""
        asyncio.get_running_loop().set_exception_handler(self._complain)
        await super().startup(sockets=sockets)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        """Check connections each second.

        After a signal, refuse new requests and exit when the last one has its reply.
        """
        if counter % 10 == 0:
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.check(self._dispatcher.settings.timeout_s)
        if self._leaving:
            self._dispatcher.close()
            self.should_exit = self.should_exit or self._dispatcher.idle
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close all connections: those whose request is not whole now, the others in time."""
        self._abort(lambda connection: bool(connection.cycle and connection.cycle.more_body))
        loop = asyncio.get_running_loop()
        loop.call_later(GOODBYE_S - 1, self._abort, lambda connection: True)
        await super().shutdown(sockets)

    def _abort(self, chosen: Callable[[Connection], bool]) -> None:
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection) and chosen(connection):
                connection.transport.abort()

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what goes wrong in the event loop, a lack of descriptors once a minute."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in LACKING:
            loop.default_exception_handler(context)
        elif time.monotonic() - self._lacked > QUIET_S:
            self._lacked = time.monotonic()
            LOG.error("Connections cannot be accepted for now: %s.", error.strerror)


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
    finally:
        app.state.dispatcher.leave()


def _cannot_listen(host: str, port: int, error: Exception) -> QualaError:
    reason = getattr(error, "strerror", None) or str(error)
    return QualaError(f"Cannot listen on {host}:{port}: {reason}; choose another `--port`.")
