"""The table of a sweep: what varies, figures, statuses, order, seeds, and the files."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from quala.compare.store import Reports
from quala.compare.sweep import SweepTable
from quala.compare.sweep_page import (
    build_sweep,
    failures,
    job_notes,
    job_texts,
    setting_texts,
    sweep_charts,
)
from quala.errors import QualaError
from quala.manifest import write_manifest
from quala.results import GIGA, Latency, Report, Row
from quala.workflow.execute import WORKFLOW
from quala.workflow.sweep import JOB, OBJECTIVES, STUDY
from quala.workflow.tracking import FINAL, KIND, MANIFEST_TAG, PARENT, STAGE

SIZE = 22 * 2**20


def _report(score: float, gmacs: float) -> Report:
    whole: dict[str, Any] = {
        "model": "m", "precision": "int8", "size_bytes": SIZE, "tokens": "full",
        "macs_padded": 2, "macs_mean": 2 * GIGA, "interval": (80.0, 95.0),
    }  # fmt: skip
    short = {**whole, "macs_mean": gmacs * GIGA, "tokens": "8,4", "lengths": (8, 4)}
    return Report(
        (
            Row(**{**whole, "precision": "fp32"}, role="baseline", score=91.0,
                latency_ms=Latency(20.0, 0, 0)),
            Row(**whole, role="full", score=90.0, latency_ms=Latency(10.0, 0, 0)),
            Row(**short, role="chosen", score=score, latency_ms=Latency(5.0, 0, 0)),
        )
    )  # fmt: skip


class Sweeps:
    """A store in which tests write sweeps as the engine leaves them."""

    def __init__(self, folder: Path) -> None:
        from mlflow import MlflowClient

        self.folder = folder
        self.client: MlflowClient = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        self.experiment = self.client.create_experiment("quala", (folder / "artifacts").as_uri())
        self.sweep = self._run(**{KIND: "sweep", WORKFLOW: "kdlsq"})
        self.jobs = 0

    def _run(self, metrics: dict[str, float] | None = None, **tags: str) -> str:
        run_id = str(self.client.create_run(self.experiment, tags=tags).info.run_id)
        for name, value in (metrics or {}).items():
            self.client.log_metric(run_id, name, value)
        self.client.set_terminated(run_id)
        return run_id

    def _stage(self, name: str, file: str, content: Any) -> str:
        run_id = self._run(**{KIND: "stage", STAGE: name})
        output = self.folder / "artifacts" / run_id / "artifacts" / "output"
        output.mkdir(parents=True)
        (output / file).write_text(json.dumps(content))
        self.client.set_tag(run_id, MANIFEST_TAG, write_manifest(output))
        return run_id

    def add(
        self,
        *words: str,
        report: Report | None = None,
        rows: Report | None = None,
        metrics: dict[str, float] | None = None,
        status: str = "FINISHED",
        error: str | None = None,
        own: bool = True,
    ) -> str | None:
        """Add a job with a report, with the rows of a measure stage, or with metrics only."""
        made = {KIND: "workflow", "quala.overrides": " ".join(words)}
        if report:
            made[f"{STAGE}.report"] = self._stage("report", "report.json", report.to_json())
        if rows:
            made[f"{STAGE}.measure"] = self._stage("measure", "rows.json", rows.to_json()["rows"])
        for name, value in (metrics or {}).items():
            stage, _, key = name.partition(".")
            final = {KIND: "stage", STAGE: stage, FINAL: json.dumps([key])}
            first = self._run({"loss": 1.0}, **{KIND: "stage", FINAL: '["loss"]'})
            made |= {f"{STAGE}.before": first}
            made |= {f"{STAGE}.{stage}": self._run({key: value, "train/loss": 9.0}, **final)}
        if own:
            made[PARENT] = self.sweep
        run_id = self._run(metrics, **made) if report or rows or metrics else None
        job = {"job": self.jobs, "overrides": words, "status": status, "error": error,
               "run_id": run_id if status == "FINISHED" else None}  # fmt: skip
        self.client.set_tag(self.sweep, f"{JOB}{self.jobs}", json.dumps(job))
        self.jobs += 1
        return run_id

    def table(self) -> SweepTable:
        reports = Reports.open(f"sqlite:///{self.folder / 'mlflow.db'}")
        return SweepTable.read(reports, reports.run(self.sweep))


@pytest.fixture
def sweeps(tmp_path: Path, migrated_database: Path) -> Sweeps:
    shutil.copy(migrated_database, tmp_path / "mlflow.db")
    return Sweeps(tmp_path)


@pytest.fixture
def grid(sweeps: Sweeps) -> Sweeps:
    """Two costs by three seeds, of which one job failed."""
    scores = iter((88.0, 89.0, 87.0, 86.0, None, 88.5))
    for cost in ("macs", "latency"):
        for seed in (0, 1, 2):
            words = ["experiment=demo", f"stage.search.cost={cost}", f"seed={seed}"]
            if score := next(scores):
                sweeps.add(*words, report=_report(score, 1.0 if cost == "macs" else 1.5))
            else:
                sweeps.add(*words, status="FAILED", error="QualaError: It was\ntold to.")
    return sweeps


def test_there_is_a_column_for_each_option_that_varies(grid: Sweeps) -> None:
    table = grid.table()
    assert table.columns == ["cost", "seed"]
    texts = job_texts(table, table.jobs)
    assert list(texts) == ["Job", "cost", "seed", "F1", "95 %", "Loss", "GMACs", "Saved",
                           "Hypervolume", "Status", "Run"]  # fmt: skip
    assert texts.iloc[0].tolist()[:6] == ["0", "macs", "0", "88.00", "80.0 to 95.0", "2.00"]
    assert texts["Job"].tolist() == ["0", "1 *", "2", "3", "4", "5"]
    assert "The same in all jobs: ms 5.00, Speed-up 4.00x, MiB 22.00." in job_notes(table)


def test_a_failed_job_is_told_with_its_reason(grid: Sweeps) -> None:
    table = grid.table()
    assert [line.job.status for line in table.jobs].count("finished") == 5
    assert table.jobs[4].job.status == "failed"
    assert failures(table) == ["Job 4 failed: QualaError: It was told to."]


def test_settings_have_their_spread_over_seeds(grid: Sweeps) -> None:
    table = grid.table()
    texts = setting_texts(table)
    assert texts is not None
    assert texts[["cost", "n", "F1", "GMACs"]].to_numpy().tolist() == [
        ["macs *", "3", "88.00 ± 1.00", "1.000 ± 0.000"],
        ["latency", "2", "87.25 (86.00–88.50)", "1.500 (1.500–1.500)"],
    ]


@pytest.mark.parametrize(
    ("by", "reverse", "numbers"),
    [
        (None, False, [0, 1, 2, 3, 4, 5]),
        (None, True, [5, 4, 3, 2, 1, 0]),
        ("f1", False, [1, 5, 0, 2, 3, 4]),
        ("f1", True, [3, 2, 0, 5, 1, 4]),
        ("gmacs", False, [0, 1, 2, 3, 5, 4]),
        ("cost", False, [3, 4, 5, 0, 1, 2]),
        ("seed", True, [2, 5, 1, 4, 0, 3]),
    ],
)
def test_jobs_are_ordered(
    grid: Sweeps, by: str | None, reverse: bool, numbers: Sequence[int]
) -> None:
    found = grid.table().ordered(by, reverse=reverse)
    assert [line.number for line in found] == numbers


def test_an_unknown_column_names_those_there_are(grid: Sweeps) -> None:
    with pytest.raises(QualaError, match=r"`gmasc`. Did you mean `gmacs`\? Allowed: cost, f1, gm"):
        grid.table().ordered("gmasc")


def test_without_a_report_the_measured_rows_count(sweeps: Sweeps) -> None:
    sweeps.add("seed=0", rows=_report(88.0, 1.0))
    (line,) = sweeps.table().jobs
    assert line.figures["score"] == 88.0
    assert line.figures["speedup"] == 4.0


def test_without_a_measurement_the_last_stage_counts(sweeps: Sweeps) -> None:
    sweeps.add("seed=0", metrics={"distill.f1": 70.0})
    sweeps.add("seed=1", metrics={"distill.f1": 71.0})
    table = sweeps.table()
    assert job_texts(table, table.jobs)["distill.f1"].tolist() == ["70", "71"]
    assert table.best == []
    assert [line.number for line in table.ordered("distill.f1", reverse=True)] == [1, 0]


def test_a_job_that_another_command_had_run_is_cached(sweeps: Sweeps) -> None:
    sweeps.add("seed=0", report=_report(88.0, 1.0), own=False)
    assert sweeps.table().jobs[0].job.status == "cached"


def test_a_job_whose_process_is_gone_is_killed_and_has_what_it_came_to(sweeps: Sweeps) -> None:
    run_id = sweeps.add("seed=0", rows=_report(88.0, 1.0), status="RUNNING")
    (line,) = sweeps.table().jobs
    assert (line.job.status, line.run_id, line.figures["score"]) == ("killed", run_id, 88.0)


def test_options_are_named_by_what_tells_them_apart(sweeps: Sweeps) -> None:
    sweeps.add("experiment=a", "stage.finetune.seed=1", "++stage.x.loss=1", "~stage.y.z")
    sweeps.add("experiment=b", "stage.distill.seed=1", "stage.x.loss='2'")
    first, second = sweeps.table().jobs
    assert first.values == {"experiment": "a", "stage.x.loss": "1", "z": "~",
                            "finetune.seed": "1", "distill.seed": "-"}  # fmt: skip
    assert second.values["stage.x.loss"] == "2"


def _study(sweeps: Sweeps, **directions: str) -> SweepTable:
    sweeps.client.set_tag(sweeps.sweep, STUDY, "weights")
    sweeps.client.set_tag(sweeps.sweep, OBJECTIVES, json.dumps(directions))
    values = [(70.0, 4.0), (71.0, 5.0), (69.0, 4.5), (71.0, 5.0)]
    for number, (score, cost) in enumerate(values):
        metrics = {"distill.f1": score, "distill.cost": cost}
        sweeps.add(f"stage.distill.soft=0.{number}", metrics=metrics)
    sweeps.add("stage.distill.soft=0.9", metrics={"distill.steps": 3.0})
    return sweeps.table()


def test_a_study_marks_its_front_and_tells_what_it_could_not_use(sweeps: Sweeps) -> None:
    table = _study(sweeps, **{"distill.f1": "maximize", "distill.cost": "minimize"})
    assert [line.number for line in table.best] == [0, 1, 3]
    assert failures(table) == ["Job 4 failed as a trial: its run has no `distill.f1`."]
    note = "Marked with *: not dominated in distill.f1 (maximize) and distill.cost (minimize)."
    assert note in job_notes(table)


def test_a_study_of_one_objective_has_one_best_trial(sweeps: Sweeps) -> None:
    table = _study(sweeps, **{"distill.cost": "minimize"})
    assert [line.number for line in table.best] == [0]


def test_a_job_that_failed_is_not_the_best(sweeps: Sweeps) -> None:
    sweeps.add("seed=0", rows=_report(89.0, 1.0), status="FAILED", error="No disk.")
    sweeps.add("seed=1", rows=_report(88.0, 1.0))
    assert [line.number for line in sweeps.table().best] == [1]
    sweeps.client.set_tag(sweeps.sweep, OBJECTIVES, '{"distill.f1": "maximize"}')
    sweeps.add("seed=2", metrics={"distill.f1": 9.0}, status="FAILED", error="No disk.")
    assert [line.number for line in sweeps.table().best] == []


def test_a_damaged_report_is_refused(grid: Sweeps) -> None:
    (file, *_) = grid.folder.glob("artifacts/*/artifacts/output/report.json")
    file.write_text(file.read_text().replace("90.0", "95.0"))
    with pytest.raises(QualaError, match=r"`report.json` of run `\w+` has another content"):
        grid.table()


def test_charts_have_the_front_of_each_job_and_a_color_for_each_setting(grid: Sweeps) -> None:
    macs, milliseconds = sweep_charts(grid.table())
    assert macs.cost == "Mean GMACs per input"
    named = [one for one in macs.series if one.name]
    assert [(one.name, [mark.label for mark in one.marks]) for one in named] == [
        ("cost=macs", ["0", "1", "2"]), ("cost=latency", ["3", "5"]),
    ]  # fmt: skip
    joined = [one for one in macs.series if one.joined]
    assert [[mark.x for mark in one.marks] for one in joined] == [[1.0, 2.0]] * 3 + [
        [1.5, 2.0]
    ] * 2
    assert {one.style.color for one in joined[:3]} == {named[0].style.color}
    assert [mark.x for mark in milliseconds.front] == [5.0, 10.0]


def test_every_file_is_written(grid: Sweeps, tmp_path: Path) -> None:
    table, out = grid.table(), tmp_path / "out"
    out.mkdir()
    page = f"{table.jobs[0].run_id}/report.html"
    lines = table.ordered("f1")
    written = build_sweep(out, table, lines, {str(table.jobs[0].run_id): page})
    assert {file.name for file in written} == {file.name for file in out.iterdir()}
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    html = (out / "sweep.html").read_text()
    assert f'<a href="{page}">' in html
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=", html)
    assert '<tr class="bold"><td>1 *</td>' in html
    found = json.loads((out / "sweep.json").read_text())
    assert [job["job"] for job in found["jobs"]] == [1, 5, 0, 2, 3, 4]
    assert (found["best"], found["varied"]) == ([1], ["cost", "seed"])
    assert found["settings"][0]["score"]["deviation"] == 1.0
    rows = list(csv.DictReader(io.StringIO((out / "sweep.csv").read_text())))
    assert (rows[0]["cost"], rows[0]["score"], rows[-1]["score"]) == ("macs", "89.0", "")
    text = (out / "sweep.md").read_text()
    assert "| macs * | 3 | 88.00 ± 1.00 |" in text
    assert "![Fronts of all jobs](sweep.png)" in text
