"""`quala serve`: answer questions over HTTP, with a page to try the model on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from quala.cli.arguments import Parser
from quala.cli.locate import add_model, locate_model
from quala.runtime.hardware import check_threads
from quala.serve.settings import Settings

DEFAULTS = Settings()
GIVEN = "(default: %(default)s)"
LIMITS: tuple[tuple[str, type, str], ...] = (
    ("budget_ms", float, "milliseconds for requests that name no budget (default: full length)"),
    ("max_batch", int, f"most queries run together {GIVEN}"),
    ("batch_wait_ms", float, f"milliseconds that the first of a batch waits for others {GIVEN}"),
    ("queue", int, f"queries that may wait; more get 429 {GIVEN}"),
    ("timeout_s", float, f"seconds per request {GIVEN}"),
    ("max_request_kib", int, f"largest request body {GIVEN}"),
)
"""Name in `Settings`, type and help of each limit."""


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT. Raises QualaError for bad values and a port in use."""
    arguments = _parser().parse_args(argv)
    check_threads(arguments.threads)
    settings = Settings(**{name: getattr(arguments, name) for name, _, _ in LIMITS})
    # the web framework and the runtime take seconds, which `--help` should not
    from quala.serve.server import bind, serve

    with bind(arguments.host, arguments.port) as held:
        from quala.runtime.answerer import load
        from quala.serve.app import create_app

        folder = locate_model(arguments.model, arguments.tracking_uri)
        answerer = load(folder, runtime=arguments.runtime, threads=arguments.threads)
        app = create_app(answerer, settings)
        answerer.warm()
        serve(app, held, ready=_announce)
    return 0


def _announce(url: str) -> None:
    sys.stdout.write(f"Open {url}\nPOST {url}/answer   API: {url}/docs   Ctrl-C stops\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="quala serve", description=__doc__)
    add_model(parser)
    parser.add_argument("--host", default="127.0.0.1", help=f"address to listen on {GIVEN}")
    parser.add_argument(
        "--port", type=int, default=8000, help=f"port, 0 for any that is free {GIVEN}"
    )
    parser.add_argument(
        "--runtime", default="onnxruntime", help=f"onnxruntime or openvino {GIVEN}"
    )
    parser.add_argument("--threads", type=int, default=1, help=f"threads of the runtime {GIVEN}")
    limits = parser.add_argument_group("limits")
    for name, kind, text in LIMITS:
        limits.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=getattr(DEFAULTS, name),
            metavar="X" if name == "budget_ms" else None,
            help=text,
        )
    return parser
