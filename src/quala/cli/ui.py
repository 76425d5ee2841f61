"""`quala ui`: open MLflow's web interface on the store that the runs were tracked in."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence

from quala.errors import QualaError
from quala.workflow.store import SERVER, existing_store


def main(argv: Sequence[str]) -> int:
    """Replace this process by `mlflow ui`. Raises QualaError without a store or a free port."""
    arguments = _parser().parse_args(argv)
    uri = existing_store(arguments.tracking_uri)
    if uri.startswith(SERVER):
        raise QualaError(f"`{uri}` is a tracking server with its own interface: open it directly.")
    _require_free(arguments.host, arguments.port)
    sys.stdout.write(f"MLflow on {uri}\nOpen http://{arguments.host}:{arguments.port}\n")
    sys.stdout.flush()
    os.execv(sys.executable, _command(uri, host=arguments.host, port=arguments.port))


def _command(uri: str, *, host: str, port: int) -> list[str]:
    where = ["--backend-store-uri", uri, "--host", host, "--port", str(port)]
    return [sys.executable, "-m", "mlflow", "ui", *where]


def _require_free(host: str, port: int) -> None:
    if not 1 <= port <= 65535:
        raise QualaError(f"`--port` must be from 1 to 65535, got {port}.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # A port that a stopped server has just left is free for the next one.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise QualaError(
            f"Cannot listen on {host}:{port}: {error.strerror}; choose another `--port`."
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="quala ui", description=__doc__)
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="the store (default: sqlite:///<this folder>/mlruns/mlflow.db)",
    )
    return parser
