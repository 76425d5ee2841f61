"""`quala ui`: open MLflow's web interface on the store that the runs were tracked in."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from quala.cli.arguments import PLACE, Parser, add_store, number
from quala.errors import QualaError
from quala.redact import shown
from quala.workflow.settings import SERVER
from quala.workflow.tracking import existing_store


def main(argv: Sequence[str]) -> int:
    """Replace this process by `mlflow ui`. Raises QualaError without a store or a free port."""
    arguments = _parser().parse_args(argv)
    uri = existing_store(arguments.tracking_uri)
    if uri.startswith(SERVER):
        raise QualaError(f"`{uri}` is a tracking server with its own interface: open it directly.")
    # the web framework takes a second to import, which `--help` should not
    from quala.serve.server import bind

    host, port = arguments.host, arguments.port
    bind(host, port, lowest=1).close()
    sys.stdout.write(f"MLflow on {shown(uri)}\nOpen http://{host}:{port}\n")
    sys.stdout.flush()
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # a command line is seen by all users
    where = ["--host", host, "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", *where])


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="quala ui", description=__doc__)
    parser.add_argument("--port", type=number(int, at_least=1, at_most=65535), default=5000)
    parser.add_argument("--host", type=PLACE, default="127.0.0.1")
    add_store(parser)
    return parser
