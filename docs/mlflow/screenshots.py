"""Take the pictures of MLflow's interface that the guide shows.

It opens the newest sweep of a store, and the newest run with a front, in a headless browser:

    quala run quala_minilm -m stage.search.strategy=quala,published stage.search.seed=0,1,2
    python docs/mlflow/screenshots.py --tracking-uri sqlite:///mlruns/mlflow.db --out docs/mlflow

It needs Chromium (`apt-get install chromium`), or another browser by the variable BROWSER.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.entities import Run
from PIL import Image

from quala.workflow import views
from quala.workflow.sweep import JOB
from quala.workflow.tracking import KIND, Tracking

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SECONDS = 60
"""How long the server may take to start."""
SECONDS_OF_BROWSER = 300
"""Of the browser's own time, which it skips through: a page draws one chart after another."""
COLORS = 128


def main() -> None:
    """Take all pictures that the store has the runs for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracking-uri", default="sqlite:///mlruns/mlflow.db")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    browser = os.environ.get("BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"No browser was found: install Chromium, or set BROWSER. Tried {BROWSERS}.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    store = Tracking.connect(arguments.tracking_uri)
    with _interface(store.uri) as server:
        for name, (page, size) in _pages(store, server).items():
            file = arguments.out / f"{name}.png"
            _picture(browser, page, size, file)
            sys.stdout.write(f"{file}  {page}\n")


def _pages(store: Tracking, server: str) -> dict[str, tuple[str, str]]:
    """Return the pages by the names of their pictures, with the size of the window."""
    experiments = [*store.experiment_ids().values()]
    done = store.find_runs(experiments, {KIND: "workflow"}, "FINISHED")
    run = next((one for one in done if _metric(one)), None)
    if run is None:
        sys.exit(f"No finished run of {store.uri} has a front.")
    identity, fronts = run.info.experiment_id, views.fronts_key(_metric(run))
    page = views.address(server, identity, run=run.info.run_id)
    place, _, asked = page.partition("?")
    found = {
        "fronts": (views.address(server, identity, view=fronts), "1900,1250"),
        "run": (page, "1900,1250"),
        "front": (f"{place}/model-metrics?{asked}", "1900,1250"),
        "table": (f"{place}/artifacts/front.json?{asked}", "1900,800"),
    }
    sweeps = store.find_runs(experiments, {KIND: "sweep"}, "FINISHED")
    for sweep in sweeps[:1]:
        identity, key = sweep.info.experiment_id, views.sweep_key(sweep.info.run_id)
        runs = [one.info.run_id for one in done if _belongs(one, sweep)][:10]
        found["sweep"] = (views.address(server, identity, view=key), "1900,1250")
        found["compare"] = (views.compared(server, identity, runs), "1900,1700")
    models = store.client.search_registered_models()
    for model in models[:1]:
        place = f"{server}/#/models/{model.name}"
        version = model.latest_versions[0].version
        found["registry"] = (
            f"{place}/versions/{version}?workflowType={views.TRAINING}",
            "1900,900",
        )
    return found


def _metric(run: Run) -> str:
    """Return the metric of a run's front, empty without one."""
    names = [key.removeprefix(views.FRONT) for key in run.data.metrics if views.FRONT in key]
    return next((name for name in names if name not in views.COSTS), "")


def _belongs(run: Run, sweep: Run) -> bool:
    jobs = [text for key, text in sweep.data.tags.items() if key.startswith(JOB)]
    return any(run.info.run_id in text for text in jobs)


@contextmanager
def _interface(uri: str) -> Iterator[str]:
    """Start MLflow's interface on a store; yield its address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": uri}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(SECONDS):
                time.sleep(1)
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=1).close()
                    break
                except OSError:
                    continue
            else:
                sys.exit("MLflow's interface did not start.")
            yield address
        finally:
            process.terminate()


def _picture(browser: str, page: str, size: str, file: Path) -> None:
    """Write what the browser shows, in few colors."""
    with tempfile.TemporaryDirectory() as folder:
        taken = Path(folder) / "taken.png"
        options = [
            "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={folder}/profile", f"--window-size={size}", f"--screenshot={taken}",
            f"--virtual-time-budget={1000 * SECONDS_OF_BROWSER}",
        ]  # fmt: skip
        subprocess.run([browser, *options, page], check=True, capture_output=True, timeout=300)
        with Image.open(taken) as picture:
            picture.convert("RGB").quantize(COLORS).save(file, optimize=True)


if __name__ == "__main__":
    main()
