"""`quala serve`: serve a model over HTTP, with a page to try it on."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from functools import partial

from quala.cli.arguments import Parser
from quala.cli.locate import add_model, locate_model
from quala.errors import QualaError
from quala.runtime.hardware import check_threads
from quala.serve.settings import Settings

DEFAULTS = Settings()
HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
GIVEN = "(default: %(default)s)"
EXAMPLES = """\
examples:
  quala serve minilm-squad                     POST /answer  {"question": "...", "context": "..."}
  quala serve RUN --budget-ms 8 --threads 2    POST /predict {"text": "...", "pair": "..."}
  curl -d '{"text": "A joy to watch."}' -H 'Content-Type: application/json' URL/predict
"""
LIMITS: tuple[tuple[str, type, str], ...] = (
    ("budget_ms", float, "milliseconds for requests that name no budget (default: full length)"),
    ("max_batch", int, f"most windows run together {GIVEN}"),
    ("batch_wait_ms", float, f"milliseconds that the first of a batch waits for others {GIVEN}"),
    (
        "max_windows",
        int,
        f"most windows of the model per request; half a megabyte needs 800 {GIVEN}",
    ),
    ("queue", int, f"windows that may wait; more get 429 {GIVEN}"),
    ("timeout_s", float, f"seconds per request {GIVEN}"),
    ("max_request_kib", int, f"largest request body {GIVEN}"),
    ("max_connections", int, "open connections (default: 1000, or what `ulimit -n` allows)"),
)
"""Name in `Settings`, type and help of each limit."""


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT. Raises QualaError for bad values and a port in use."""
    arguments = _parser().parse_args(argv)
    check_threads(arguments.threads)
    limits = {name: getattr(arguments, name) for name, _, _ in LIMITS}
    settings = Settings(**limits, allowed_hosts=_hosts(arguments.allowed_hosts, arguments.host))
    # the web framework and the runtime take seconds, which `--help` should not
    from quala.serve.server import bind, connections, serve

    connections(settings.max_connections)
    with bind(arguments.host, arguments.port) as held:
        from quala.runtime.answerer import load
        from quala.serve.app import create_app
        from quala.serve.routes import service_of

        folder = locate_model(arguments.model, arguments.tracking_uri)
        model = load(folder, runtime=arguments.runtime, threads=arguments.threads)
        app = create_app(model, settings)
        model.warm()
        paths = [route.path for route in service_of(model.card).routes]
        serve(app, held, ready=partial(_announce, paths))
    return 0


LOCAL = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine. Pages of other sites that reach it name another host."""


def _hosts(given: str | None, bound: str) -> tuple[str, ...]:
    """Return the hosts that are answered, none for all. Raises QualaError for one that is none."""
    if given is None:
        own = f"[{bound}]" if ":" in bound else bound
        local = own.rstrip(".").lower() in LOCAL or bound.startswith("127.")
        return (*LOCAL, own) if local else ()
    hosts = tuple(host.strip() for host in given.split(","))
    for host in hosts:
        if host != "*" and not HOST.fullmatch(host):
            raise QualaError(
                f"`--allowed-hosts` must be host names without ports, or *, got `{host}`."
            )
    return () if "*" in hosts else hosts


def _announce(paths: Sequence[str], url: str) -> None:
    posts = " and ".join(url + path for path in paths)
    sys.stdout.write(f"Open {url}\nPOST {posts}   API: {url}/docs   Ctrl-C stops\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="quala serve",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(parser)
    parser.add_argument("--host", default="127.0.0.1", help=f"address to listen on {GIVEN}")
    parser.add_argument(
        "--port", type=int, default=8000, help=f"port, 0 for any that is free {GIVEN}"
    )
    parser.add_argument(
        "--allowed-hosts",
        metavar="A,B",
        help="hosts in requests that are answered, * for all (default: all, or the names of this "
        "machine when it alone is listened to)",
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
            metavar="X" if getattr(DEFAULTS, name) is None else None,
            help=text,
        )
    return parser
