"""`quala report`: workflows, sweeps, and what has no report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quala.cli.report import main
from quala.errors import QualaError
from quala.report.write import build_report
from quala.results import Row

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "quala"


class _Store:
    """A tracking store as the engine leaves it, with made-up figures."""

    def __init__(self, folder: Path) -> None:
        from mlflow import MlflowClient

        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self._folder = folder
        self.client: MlflowClient = MlflowClient(self.uri)
        self._experiment = self.client.create_experiment(
            EXPERIMENT, artifact_location=(folder / "artifacts").as_uri()
        )

    def run(self, tags: Mapping[str, str], status: str = "FINISHED") -> str:
        run_id = str(self.client.create_run(self._experiment, tags=dict(tags)).info.run_id)
        self.client.set_terminated(run_id, status)
        return run_id

    def report(self, score: float) -> str:
        run_id = self.run({"quala.kind": "stage", "quala.stage": "report"})
        row = Row(
            model="integer",
            precision="int8",
            size_bytes=1,
            tokens="full",
            macs_padded=2,
            macs_mean=1.0,
            role="full",
            score=score,
        )
        output = self._folder / run_id
        build_report(output, [row], title="Made up")
        self.client.log_artifacts(run_id, str(output), "output")
        return run_id

    def workflow(self, score: float | None, status: str = "FINISHED") -> str:
        made = {} if score is None else {"quala.stage.report": self.report(score)}
        return self.run({"quala.kind": "workflow", **made}, status)

    def sweep(self, jobs: list[tuple[str, str | None]]) -> str:
        noted = {
            f"quala.job.{number}": json.dumps(
                {"job": number, "overrides": [f"seed={number}"], "status": status, "run_id": run}
            )
            for number, (status, run) in enumerate(jobs)
        }
        return self.run({"quala.kind": "sweep", **noted})


@pytest.fixture
def store(tmp_path: Path, migrated_database: Path) -> _Store:
    shutil.copy(migrated_database, tmp_path / "mlflow.db")
    return _Store(tmp_path)


def _json(store: _Store, capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, object]:
    assert main([*argv, "--tracking-uri", store.uri, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_the_newest_finished_workflow_is_the_default(
    store: _Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.workflow(80.0)
    newest = store.workflow(81.0)
    store.workflow(82.0, status="FAILED")
    assert _json(store, capsys)["run"] == newest


def test_a_named_workflow_is_shown(store: _Store, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = store.workflow(80.0)
    store.workflow(81.0)
    assert main([run_id, "--tracking-uri", store.uri]) == 0
    shown = capsys.readouterr().out
    assert "80.00" in shown
    assert "Made up" in shown


def test_the_files_are_copied(store: _Store, tmp_path: Path) -> None:
    store.workflow(80.0)
    main(["--tracking-uri", store.uri, "--out", str(tmp_path / "copy")])
    names = {file.name for file in (tmp_path / "copy").iterdir()}
    assert {"report.json", "front.png", "report.html"} <= names


def test_a_sweep_compares_its_jobs(store: _Store, capsys: pytest.CaptureFixture[str]) -> None:
    first = store.workflow(80.0)
    sweep = store.sweep([("FINISHED", first), ("FAILED", None)])
    jobs = _json(store, capsys, sweep)["jobs"]
    assert isinstance(jobs, list)
    assert [job["status"] for job in jobs] == ["finished", "failed"]
    assert [job["overrides"] for job in jobs] == ["seed=0", "seed=1"]
    assert [job["score_full"] for job in jobs] == [80.0, None]


def test_a_sweep_is_a_table(store: _Store, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = store.sweep([("FINISHED", store.workflow(80.0)), ("FAILED", None)])
    main([sweep, "--tracking-uri", store.uri])
    shown = capsys.readouterr().out
    assert "F1 full" in shown
    assert "seed=1" in shown


def test_an_unknown_run_names_the_newest(store: _Store) -> None:
    newest = store.workflow(80.0)
    with pytest.raises(QualaError, match=newest):
        main(["0" * 32, "--tracking-uri", store.uri])


def test_a_stage_run_is_refused(store: _Store) -> None:
    with pytest.raises(QualaError, match="is a stage, not a workflow"):
        main([store.report(80.0), "--tracking-uri", store.uri])


def test_a_workflow_without_a_report_is_one_sentence(store: _Store) -> None:
    with pytest.raises(QualaError, match="has no report"):
        main([store.workflow(None), "--tracking-uri", store.uri])


def test_nothing_finished_is_one_sentence(store: _Store) -> None:
    with pytest.raises(QualaError, match="No finished workflow"):
        main(["--tracking-uri", store.uri])


def test_no_store_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(QualaError, match="no tracking store"):
        main(["--tracking-uri", f"sqlite:///{tmp_path}/none.db"])
