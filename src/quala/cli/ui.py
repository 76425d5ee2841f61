"""`quala ui`: open MLflow's web interface on the store that the runs were tracked in."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from quala.cli.arguments import PLACE, Parser, add_store, number
from quala.cli.locate import check_known
from quala.errors import QualaError, unknown
from quala.redact import shown
from quala.workflow.server import SERVER, page_of
from quala.workflow.tracking import existing_store


def main(argv: Sequence[str]) -> int:
    """Print the page of a tracking server, or replace this process by `mlflow ui`.

    Raises QualaError without a store or a free port, and for an unknown run or experiment.
    """
    arguments = _parser().parse_args(argv)
    uri = existing_store(arguments.tracking_uri)
    where = _place(uri, arguments.run, arguments.experiment)
    if uri.startswith(SERVER):
        sys.stdout.write(f"Open {page_of(uri, *where)}\n")
        return 0
    # the web framework takes a second to import, which `--help` should not
    from quala.serve.server import bind

    host, port = arguments.host, arguments.port
    bind(host, port, lowest=1).close()
    sys.stdout.write(f"MLflow on {shown(uri)}\nOpen {page_of(f'http://{host}:{port}', *where)}\n")
    sys.stdout.flush()
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # a command line is seen by all users
    words = ["--host", host, "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", *words])


def _place(uri: str, run: str | None, experiment: str | None) -> tuple[str | None, str | None]:
    """Return the ids of the experiment and the run that are named."""
    if run is None and experiment is None:
        return None, None
    if run is not None and experiment is not None:
        raise QualaError("`quala ui` takes a RUN or `--experiment`, got both.")
    if run is not None:
        check_known(uri, run)
    from quala.workflow.tracking import Tracking

    store = Tracking.connect(uri)
    if run is not None:
        return store.get(run).info.experiment_id, run
    ids = store.experiment_ids()
    if experiment not in ids:
        raise unknown("experiment", experiment, ids)
    return ids[experiment], None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="quala ui", description=__doc__)
    parser.add_argument("run", type=PLACE, nargs="?", metavar="RUN", help="open this run's page")
    parser.add_argument(
        "--experiment", type=PLACE, metavar="NAME", help="open this experiment's page"
    )
    parser.add_argument("--port", type=number(int, at_least=1, at_most=65535), default=5000)
    parser.add_argument("--host", type=PLACE, default="127.0.0.1")
    add_store(parser)
    return parser
