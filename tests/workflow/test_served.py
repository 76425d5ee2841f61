"""Workflows on real tracking servers: MLflow on SQLite and PostgreSQL, with served artifacts."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from commandline import quiet_logging
from exported import export_folder
from served import Line, MlflowServer, postgres

from quala.cli.entry import main
from quala.results import Report
from quala.workflow.settings import TrackingConfig
from quala.workflow.store import Store
from quala.workflow.views import address

if TYPE_CHECKING:
    from conftest import Toy

RESULTS = '''
import os
import shutil
from pathlib import Path

from quala.workflow import Flow, Stage, StageConfig, workflow

STAGES = {
    name: Stage(name, 1, StageConfig, f"toy_results:{name}", f"give an {name}")
    for name in ("export", "report")
}


@workflow("results", stages=STAGES, conf=Path(__file__).parent / "conf")
def results(flow: Flow) -> None:
    """Give what is there."""
    flow.run("export", model=flow.model("start"))
    flow.run("report", model=flow.model("start"))
'''
GIVEN = """
import os
import shutil


def export(config, context, inputs):
    shutil.copytree(os.environ["TOY_EXPORT"], context.output, dirs_exist_ok=True)


def report(config, context, inputs):
    shutil.copy(os.environ["TOY_REPORT"], context.output / "report.json")
"""
LAST_ACT = """
_grow = grow


def grow(config, context, inputs):
    found = _grow(config, context, inputs)
    if context.name == "second":
        open(os.environ["TOY_CUT"], "w").close()
    return found
"""
__all__ = ["export_folder"]

ASKED = ["--question", "Who?", "--context", "Ada Lovelace did.", "--json"]


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    migrated_database: Path,
) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("server")
    with ExitStack() as stack:
        if request.param == "sqlite":
            database = f"sqlite:///{shutil.copy(migrated_database, folder / 'mlflow.db')}"
        else:
            database = stack.enter_context(postgres())
        made = MlflowServer(folder, database)
        stack.callback(made.kill)
        made.start()
        yield made


on_sqlite = pytest.mark.parametrize("server", ["sqlite"], indirect=True, scope="session")


@pytest.fixture
def line(server: MlflowServer) -> Iterator[Line]:
    made = Line(server.uri)
    yield made
    made.close()


@pytest.fixture
def served(
    toy: Toy, server: MlflowServer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Toy]:
    """The toy workflow, which finds the server by MLflow's variables."""
    config = toy.folder / "conf/config.yaml"
    config.write_text(config.read_text().replace("experiment: toy", "experiment: null"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    with quiet_logging():
        yield toy


def called(*words: str) -> str:
    said = io.StringIO()
    with redirect_stdout(said):
        assert main(list(words)) == 0
    return said.getvalue()


def wait_for(toy: Toy, stage: str) -> None:
    limit = time.monotonic() + 120
    while stage not in toy.done and time.monotonic() < limit:
        time.sleep(0.02)


def statuses(store: Store) -> dict[str, list[str]]:
    """Return the status of each run of an experiment, by its kind."""
    found: dict[str, list[str]] = {}
    for run in store.find_runs([store.experiment_id], {}):
        found.setdefault(run.data.tags["quala.kind"], []).append(run.info.status)
    return found


ALL_DONE = {"workflow": ["FINISHED"], "stage": ["FINISHED"] * 3, "candidate": ["FINISHED"] * 2}


def test_a_killed_run_is_resumed_on_the_server(served: Toy, server: MlflowServer) -> None:
    process = served.start("stage.second.sleep=600")
    wait_for(served, "second")
    process.kill()
    process.communicate()
    result = served.run()
    assert [one.status for one in result.outcomes] == ["cached", "resumed", "done"]
    assert served.done == ["first", "second", "second", "third"]
    assert result.store.uri == server.uri
    assert statuses(result.store) == ALL_DONE
    assert not list((served.folder / "mlruns").rglob("artifacts/*"))  # only the server has them
    assert served.run().reused


def test_two_runs_at_once_do_the_work_once(served: Toy) -> None:
    both = [served.start("stage.first.sleep=1") for _ in range(2)]
    for process in both:
        assert process.wait(timeout=300) == 0
        process.communicate()
    assert sorted(served.done) == ["first", "second", "third"]
    assert statuses(served.run().store) == ALL_DONE


def test_a_server_that_restarts_is_waited_for(served: Toy, server: MlflowServer) -> None:
    process = served.start("stage.second.sleep=1")
    wait_for(served, "second")
    server.kill()
    time.sleep(3)
    server.start()
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert err.count("does not answer") == 1, err
    assert err.count("answers again") == 1, err
    assert not {"Traceback", "urllib3", "Retry"} & set(err.replace("(", " ").split()), err
    assert served.done == ["first", "second", "third"]
    store = served.run().store
    assert statuses(store) == ALL_DONE


@on_sqlite
def test_what_a_server_did_not_get_is_sent_by_the_next_run(
    served: Toy, line: Line, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (served.folder / "toy_stages.py").open("a") as stages:
        stages.write(LAST_ACT)
    line.cut = served.folder / "cut"
    monkeypatch.setenv("TOY_CUT", str(line.cut))
    monkeypatch.setattr("quala.workflow.server.SECONDS_TO_WAIT", 1.0)
    monkeypatch.setattr("quala.workflow.server.SECONDS_OF_SILENCE", 0.2)
    words = ["run", "toy.py", f"tracking.uri={line.uri}"]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert said.count("waiting for it") == 1  # not once more by each that cleans up
    assert said.splitlines()[-1].startswith(f"error: The tracking server {line.uri} has not")
    assert "Traceback" not in said
    assert served.done == ["first", "second"]
    line.cut.unlink()
    told = json.loads(called(*words, "--json"))
    assert [one["status"] for one in told["stages"]] == ["cached", "resumed", "done"]
    assert served.done == ["first", "second", "third"]  # it was sent, not made again
    assert statuses(served.run().store) == ALL_DONE


@on_sqlite
def test_replies_that_get_lost_double_nothing(served: Toy, line: Line) -> None:
    line.lossy = True
    result = served.run(f"tracking.uri={line.uri}")
    line.lossy = False
    asked = " ".join(line.lost)
    assert all(one in asked for one in ("runs/create", "log-batch", "set-tag", "PUT /api"))
    assert asked.count("runs/create") == 6
    assert statuses(result.store) == ALL_DONE
    runs = [one.run_id or "" for one in result.outcomes]
    histories = [result.store.client.get_metric_history(run, "loss") for run in runs]
    assert [len(one) for one in histories] == [1, 1, 1]


def test_a_removed_run_takes_its_logged_model_along(
    served: Toy, server: MlflowServer, export_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_EXPORT", str(export_folder))
    (served.folder / "toy_results.py").write_text(GIVEN)
    (served.folder / "results.py").write_text(RESULTS)
    run = json.loads(called("run", "results.py", "flow.until=export", "--json"))["run_id"]
    store = Store.open(TrackingConfig(server.uri, str(served.folder / "mlruns"), None, None))
    assert store.client.search_logged_models([store.experiment_id])
    assert "MiB" not in called("store", "remove", run, "--yes")
    assert not store.client.search_logged_models([store.experiment_id])
    assert "Would remove 0 runs:" in called("store", "remove", "--unused")


def test_reports_and_models_are_read_through_the_server(
    served: Toy,
    server: MlflowServer,
    made_up_report: Report,
    export_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = served.folder / "given.json"
    report.write_text(json.dumps(made_up_report.to_json()), encoding="utf-8")
    monkeypatch.setenv("TOY_EXPORT", str(export_folder))
    monkeypatch.setenv("TOY_REPORT", str(report))
    (served.folder / "toy_results.py").write_text(GIVEN)
    (served.folder / "results.py").write_text(RESULTS)
    told = called("run", "results.py")
    run = json.loads(called("run", "results.py", "--json"))
    store = Store.open(TrackingConfig(server.uri, str(served.folder / "mlruns"), None, None))
    page = address(server.uri, store.experiment_id, run=run["run_id"])
    assert run["page"] == page
    assert page in told.replace("\n", "").replace("│", "").replace(" ", "")
    assert f"quala report {run['run_id']} " in told
    assert "--tracking-uri" not in told  # the variable says it
    assert called("ui", run["run_id"]) == f"Open {page}\n"
    assert called("ui").startswith(f"Open {server.uri}/#/experiments/")
    assert run["run_id"] in called("report", run["run_id"])
    name = f"model-{store.experiment_id}"
    called("export", run["run_id"], "--out", "copy", "--register", name)
    version = store.client.get_model_version_by_alias(name, "chosen")
    answers = [called("answer", one, *ASKED) for one in (run["run_id"], f"models:/{name}@chosen")]
    texts = [json.loads(one)["answers"][0]["text"] for one in answers]
    assert texts[0] == texts[1]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    words = ["--tracking-uri", server.uri]
    assert json.loads(called("report", run["run_id"], "--json", *words))["run"] == run["run_id"]
    made = server.artifacts / store.experiment_id / version.run_id / "artifacts/output"
    (made / "quala.json").write_text("{}")
    assert main(["answer", f"models:/{name}@chosen", *ASKED, *words]) == 2
    assert "`quala.json` of run" in capsys.readouterr().err
