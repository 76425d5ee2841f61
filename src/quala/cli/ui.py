"""`quala ui`: open the tracked runs in MLflow's web interface, or searches in Optuna's."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from quala.cli.arguments import PLACE, Parser, add_store, number
from quala.cli.locate import check_known
from quala.errors import QualaError, unknown
from quala.redact import shown
from quala.workflow.server import SERVER, site_of
from quala.workflow.tracking import OUTPUT, Tracking, existing_store
from quala.workflow.views import landing, page_of


def main(argv: Sequence[str]) -> int:
    """Print the page of a tracking server, or replace this process by `mlflow ui`.

    Raises QualaError without a store or a free port, and for an unknown run or experiment.
    """
    arguments = _parser().parse_args(argv)
    if arguments.study:
        return _studies(arguments)
    uri = existing_store(arguments.tracking_uri)
    run, experiment = arguments.run, arguments.experiment
    if run is not None and experiment is not None:
        raise QualaError("`quala ui` takes a RUN or `--experiment`, got both.")
    if run is not None:
        check_known(uri, run)
    if uri.startswith(SERVER):
        sys.stdout.write(f"Open {_page(uri, site_of(uri), run, experiment)}\n")
        return 0
    # the web framework takes a second to import, which `--help` should not
    from quala.serve.server import bind

    host, port = arguments.host, arguments.port
    bind(host, port, lowest=1).close()
    page = site = f"http://{host}:{port}"
    try:
        page = _page(uri, site, run, experiment)
    except QualaError:  # MLflow says what is wrong with the store
        if run or experiment:
            raise
    sys.stdout.write(f"MLflow on {shown(uri)}\nOpen {page}\n")
    sys.stdout.flush()
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # a command line is seen by all users
    words = ["--host", host, "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", *words])


def _page(uri: str, site: str, run: str | None, experiment: str | None) -> str:
    """Return the page of what is named, else the newest view."""
    store = Tracking.connect(uri)
    if run is not None:
        return page_of(store.client, site, store.get(run).info.run_id)
    if experiment is None:
        return landing(store.client, site)
    ids = store.experiment_ids()
    if experiment not in ids:
        raise unknown("experiment", experiment, ids)
    return landing(store.client, site, ids[experiment])


def _studies(arguments: argparse.Namespace) -> int:
    """Serve the studies of finished searches until Ctrl-C."""
    try:
        from optuna_dashboard import run_server
    except ModuleNotFoundError as error:
        raise QualaError(f"`--study` needs {error.name}: pip install optuna-dashboard") from error
    from optuna.storages import InMemoryStorage

    from quala.search.storage import read_study
    from quala.serve.server import bind

    storage = InMemoryStorage()
    for run in arguments.study:
        output = _search_output(run, arguments.tracking_uri)
        label = "" if Path(run).is_dir() else run.removeprefix("runs:/")[:8]
        read_study(output / "study", storage, label)
    host, port = arguments.host, arguments.port
    bind(host, port, lowest=1).close()
    sys.stdout.write(f"optuna-dashboard, of a copy\nOpen http://{host}:{port}\n")
    sys.stdout.flush()
    with suppress(KeyboardInterrupt):
        run_server(storage, host=host, port=port)
    return 0


def _search_output(run: str, tracking_uri: str | None) -> Path:
    """Return the output of the search of a run, or the folder itself."""
    if (folder := Path(run)).is_dir():
        return folder
    run = run.removeprefix("runs:/")
    check_known(tracking_uri, run)
    store = Tracking.connect(tracking_uri)
    return store.output(f"runs:/{store.stage_run(run, 'search')}/{OUTPUT}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="quala ui", description=__doc__)
    parser.add_argument("run", type=PLACE, nargs="?", metavar="RUN", help="open this run's page")
    parser.add_argument(
        "--experiment", type=PLACE, metavar="NAME", help="open this experiment's page"
    )
    parser.add_argument("--port", type=number(int, at_least=1, at_most=65535), default=5000)
    parser.add_argument("--host", type=PLACE, default="127.0.0.1")
    parser.add_argument(
        "--study",
        type=PLACE,
        nargs="+",
        metavar="RUN",
        help="open the searches of these runs, or folders of their outputs, in optuna-dashboard",
    )
    add_store(parser)
    return parser
