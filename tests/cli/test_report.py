"""`quala report`: workflows, sweeps, and what has no report."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tracked import Filled, Tracked, files

from quala.cli.entry import main as quala
from quala.cli.report import main
from quala.compare.store import Reports
from quala.errors import QualaError
from quala.report.page import build_report
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
        run_id = self.run({"quala.kind": "stage", "mlflow.quala.stage": "report"})
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
        made = {} if score is None else {"mlflow.quala.stage.report": self.report(score)}
        return self.run({"quala.kind": "workflow", **made}, status)

    def sweep(self, jobs: list[tuple[str, str | None]]) -> str:
        noted = {
            f"mlflow.quala.job.{number}": json.dumps(
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
    assert "manifest.json" not in names  # the folder may be an export, which has one


def test_a_sweep_compares_its_jobs(store: _Store, capsys: pytest.CaptureFixture[str]) -> None:
    first = store.workflow(80.0)
    sweep = store.sweep([("FINISHED", first), ("FAILED", None)])
    jobs = _json(store, capsys, sweep)["jobs"]
    assert isinstance(jobs, list)
    assert [job["status"] for job in jobs] == ["cached", "failed"]
    assert [job["overrides"] for job in jobs] == ["seed=0", "seed=1"]
    assert [job["score_full"] for job in jobs] == [80.0, None]


def test_a_sweep_is_a_table(store: _Store, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = store.sweep([("FINISHED", store.workflow(80.0)), ("FAILED", None)])
    main([sweep, "--tracking-uri", store.uri])
    shown = capsys.readouterr().out
    assert re.search(r"│ 0 \* │ 0 +│ 80.00 │.* cached", shown)
    assert re.search(r"│ +1 │ 1 +│ +- │.* failed", shown)
    assert "all jobs *" in shown  # over seeds


def test_a_sweep_is_sorted_and_written(
    store: _Store, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first, second = store.workflow(80.0), store.workflow(81.0)
    sweep = store.sweep([("FINISHED", first), ("FINISHED", second)])
    out = tmp_path / "out"
    words = ["--tracking-uri", store.uri, "--sort", "f1", "--csv", "--out", str(out)]
    assert main([sweep, *words]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["run"] for row in rows] == [second, first]
    files = {f"sweep.{end}" for end in ("html", "md", "csv", "json", "png")}
    assert {file.name for file in out.iterdir()} == {first, second, *files}
    assert (out / first / "report.html").is_file()
    assert f'href="{first}/report.html"' in (out / "sweep.html").read_text()


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


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Filled:
    """Two recipes, other data in another experiment, a failed run, and one without a report."""
    folder = tmp_path_factory.mktemp("tracked")
    shutil.copy(migrated_database, folder / "mlflow.db")
    tracked = Tracked(folder)
    questions = files(folder / "questions", task="squad")
    sentences = files(folder / "sentences", task="glue")
    runs = {
        "kdlsq": tracked.run("kdlsq", data=questions),
        "xtc": tracked.run("xtc", data=questions),
        "other": tracked.run("kdlsq", data=sentences, experiment="mine"),
        "bare": tracked.run("kdlsq", data=questions, seed=1, until="distill"),
    }
    # It came as far as its report and failed after that.
    runs["failed"] = tracked.run("xtc", data=questions, seed=1)
    Reports.open(tracked.uri).client.set_terminated(runs["failed"], "FAILED")
    return Filled(tracked, questions, sentences, runs)


def compare(
    filled: Filled, capsys: pytest.CaptureFixture[str], *words: str
) -> dict[str, list[tuple[str, int]]]:
    """Return the system and seeds of each row, by the metric of its table."""
    assert main(["--compare", "--json", "--tracking-uri", filled.tracked.uri, *words]) == 0
    tables = json.loads(capsys.readouterr().out)["tables"]
    return {
        table["metric"]: [(row["system"], row["n"]) for row in table["rows"]] for table in tables
    }


def test_all_finished_workflows_with_a_report_are_compared(
    filled: Filled, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(filled, capsys) == {
        "f1": [("fine-tuned", 1), ("kdlsq", 1), ("xtc", 1)],
        "accuracy": [("fine-tuned", 1), ("kdlsq", 1)],
    }


def test_named_runs_are_compared_once_each(
    filled: Filled, capsys: pytest.CaptureFixture[str]
) -> None:
    run = filled.runs["xtc"]
    assert compare(filled, capsys, run, run) == {"f1": [("fine-tuned", 1), ("xtc", 1)]}


def test_a_named_run_may_have_failed_after_its_report(
    filled: Filled, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compare(filled, capsys, filled.runs["xtc"], filled.runs["failed"])
    assert found == {"f1": [("fine-tuned", 2), ("xtc", 2)]}


def test_an_experiment_is_compared_alone(
    filled: Filled, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(compare(filled, capsys, "--experiment", "mine")) == ["accuracy"]


@pytest.mark.parametrize("task", ["glue", "sst2"])
def test_a_task_is_compared_alone(
    filled: Filled, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    assert list(compare(filled, capsys, "--task", task)) == ["accuracy"]


def test_a_sweep_stands_for_its_finished_jobs(
    filled: Filled, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = Reports.open(filled.tracked.uri)
    jobs = [("FINISHED", filled.runs["kdlsq"]), ("FAILED", None), ("FINISHED", filled.runs["xtc"])]
    noted = {
        f"mlflow.quala.job.{number}": json.dumps(
            {"job": number, "overrides": [], "status": status, "run_id": run}
        )
        for number, (status, run) in enumerate(jobs)
    }
    tags = {"quala.kind": "sweep", **noted}
    sweep = reports.client.create_run(reports.experiments["quala"], tags=tags).info.run_id
    found = compare(filled, capsys, sweep)
    assert found == {"f1": [("fine-tuned", 1), ("kdlsq", 1), ("xtc", 1)]}


def test_the_page_is_written_and_the_table_shown(
    filled: Filled, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["--compare", "--out", str(tmp_path / "page"), "--tracking-uri", filled.tracked.uri]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "KDLSQ-BERT" in shown
    assert "compare.html" in shown
    assert (tmp_path / "page/compare.html").stat().st_size > 10_000


def test_a_run_that_cannot_be_read_is_left_out_unless_it_was_named(
    filled: Filled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "copy"
    shutil.copytree(filled.tracked.folder, store)
    uri = f"sqlite:///{store / 'mlflow.db'}"
    client = Reports.open(uri).client
    tags = client.get_run(filled.runs["xtc"]).data.tags
    stage = tags["mlflow.quala.stage.measure"]
    client.delete_tag(filled.runs["xtc"], "mlflow.quala.stage.measure")
    assert stage
    assert main(["--compare", "--json", "--tracking-uri", uri]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["left_out"]) == [filled.runs["xtc"]]
    assert "xtc" not in [row["system"] for table in found["tables"] for row in table["rows"]]
    with pytest.raises(QualaError, match="from outside"):
        main(["--compare", "--json", "--tracking-uri", uri, filled.runs["xtc"]])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--compare"], "name its folder with `--out DIR`"),
        (["--compare", "--json", "0" * 32], "There is no run `00"),
        (["--compare", "--json", "BARE"], "has no report: it stopped before its report stage"),
        (["--compare", "--json", "XTC", "--experiment", "quala"], "either RUNs or `--experiment`"),
        (["--compare", "--json", "--experiment", "mein"], "Did you mean `mine`"),
        (["--compare", "--json", "--task", "mnli"], "there is squad, sst2"),
        (["XTC", "KDLSQ"], "A report is of one run, got 2"),
        (["--experiment", "mine"], "`--experiment` chooses what `--compare` compares"),
        (["--task", "squad"], "`--task` chooses what `--compare` compares"),
        (["XTC", "--sort", "f1"], "order the jobs of a sweep, `"),
        (["--compare", "--json", "--reverse"], "order the jobs of a sweep, not `--compare`"),
        (["--csv", "--json"], "go to the same place"),
        (["--compare", "--json", "STAGE"], "is a stage, not a workflow"),
        (["--compare", "--out", "FILE"], "`--out` must be a folder"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    filled: Filled,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: list[str],
    sentence: str,
) -> None:
    (tmp_path / "file").write_text("")
    tags = Reports.open(filled.tracked.uri).client.get_run(filled.runs["xtc"]).data.tags
    known = {
        **{name.upper(): run for name, run in filled.runs.items()},
        "STAGE": tags["mlflow.quala.stage.report"],
        "FILE": str(tmp_path / "file"),
    }
    typed = [known[word] if word in known else word for word in words]
    assert quala(["report", *typed, "--tracking-uri", filled.tracked.uri]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_a_sweep_without_a_finished_job_is_one_sentence(filled: Filled) -> None:
    reports = Reports.open(filled.tracked.uri)
    experiment = reports.experiments["quala"]
    sweep = reports.client.create_run(experiment, tags={"quala.kind": "sweep"}).info.run_id
    with pytest.raises(QualaError, match="No job of the sweep"):
        main(["--compare", "--json", "--tracking-uri", filled.tracked.uri, sweep])


def test_nothing_to_compare_is_one_sentence(tmp_path: Path, migrated_database: Path) -> None:
    shutil.copy(migrated_database, tmp_path / "mlflow.db")
    with pytest.raises(QualaError, match="No finished workflow"):
        main(["--compare", "--json", "--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"])


def test_an_empty_experiment_is_one_sentence(filled: Filled) -> None:
    words = ["--compare", "--json", "--experiment", "Default"]
    with pytest.raises(QualaError, match="of the experiment `Default`"):
        main([*words, "--tracking-uri", filled.tracked.uri])


def test_a_file_that_is_no_database_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("no database\n" * 99, encoding="utf-8")
    uri = f"sqlite:///{tmp_path / 'notes.txt'}"
    assert quala(["report", "--tracking-uri", uri]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: `--tracking-uri` must name a SQLite database, which `")
    assert told.count("\n") == 1
