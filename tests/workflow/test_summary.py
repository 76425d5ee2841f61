"""What the run of a workflow carries: options, data, figures, the front, table and page."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quala.data.spec import DataSpec
from quala.results import REPORT, Report
from quala.stage import StageConfig
from quala.workflow.settings import FlowConfig, Settings, TrackingConfig
from quala.workflow.store import Store
from quala.workflow.summary import (
    dataset,
    figures,
    front,
    parameters,
    show_report,
    table,
    titled,
)

if TYPE_CHECKING:
    from conftest import Toy


@dataclass(kw_only=True)
class Trained(StageConfig):
    learning_rate: float = 0.1
    layers: tuple[int, ...] = ()
    teacher: str | None = None


SPEC = DataSpec(task="squad", name="demo")


def settings(**stages: StageConfig) -> Settings:
    tracking = TrackingConfig(None, "mlruns", None, "toy")
    return Settings("toy", SPEC, {"start": "m"}, stages, FlowConfig(), tracking, 3, progress=False)


def test_options_are_flat_and_named_as_they_are_typed() -> None:
    mine = settings(distill=Trained(layers=(0, 2), force=True), off=Trained())
    words = ["experiment=demo", "+stage/distill=mini", "+cache@stage.distill.cache=hsk", "seed=3",
             "tracking.folder=/secret"]  # fmt: skip
    found = parameters(mine, ["distill"], words)
    assert {key: one for key, one in found.items() if not key.startswith("data.")} == {
        "experiment": "demo",
        "stage/distill": "mini",
        "cache:stage.distill.cache": "hsk",
        "seed": 3,
        "model.start": "m",
        "stage.distill.learning_rate": 0.1,
        "stage.distill.layers": (0, 2),
    }
    assert found["data.task"] == "squad"
    assert "data.path" not in found
    assert "stage.distill.teacher" not in found
    unset = parameters(mine, ["distill"], ["stage.distill.teacher=null"])
    assert unset["stage.distill.teacher"] == "null", "a sweep over it has an empty axis"


def test_a_run_is_called_by_what_was_typed_in_one_line() -> None:
    words = ["experiment=demo", "stage.x.text='a\n b'", "tracking.folder=/x", "data.path=/y/own"]
    assert titled("toy", words) == "toy experiment=demo text='a b' path=own"
    assert len(titled("toy", [f"a={'b' * 200}"])) == 100


def test_the_data_have_a_digest_and_a_source() -> None:
    found = dataset(SPEC, "a" * 64).dataset
    assert (found.name, found.digest, found.source_type) == ("demo", "a" * 36, "hugging_face")
    local = dataset(replace(SPEC, name=None, path="/x/own.json"), "b" * 64).dataset
    assert (local.name, json.loads(local.source)) == ("own.json", {"uri": "/x/own.json"})


def test_figures_are_of_what_would_be_served(made_up_report: Report) -> None:
    chosen, full = made_up_report.chosen, made_up_report.full
    assert chosen
    assert full
    found = figures(made_up_report)
    assert (found["f1"], found["f1_full"]) == (chosen.score, full.score)
    assert found["gmacs"] == chosen.macs_mean / 1e9
    assert found["milliseconds"] == chosen.median_ms
    without = Report(tuple(row for row in made_up_report.rows if row.role != "chosen"))
    assert figures(without)["f1"] == full.score


def test_the_front_has_a_step_for_each_point(made_up_report: Report) -> None:
    found = front(made_up_report)
    scores = [(step, value) for name, value, step in found if name == "front/f1"]
    costs = [(step, value) for name, value, step in found if name == "front/gmacs"]
    assert [step for step, _ in scores] == [step for step, _ in costs] == sorted(set(dict(scores)))
    assert all(step == round(1000 * gmacs) for step, gmacs in costs)
    rows = {*made_up_report.front, made_up_report.full}
    assert sorted(value for _, value in scores) == sorted(row.score for row in rows if row)


def test_points_of_equal_cost_have_steps_of_their_own(made_up_report: Report) -> None:
    rows = tuple(replace(row, macs_mean=5.0) for row in made_up_report.rows)
    steps = [step for name, _, step in front(Report(rows)) if name == "front/f1"]
    assert steps == list(range(len(steps)))
    assert len(steps) > 2


@pytest.fixture
def reported(toy: Toy, made_up_report: Report, tmp_path: Path) -> tuple[Store, str, Path]:
    """A finished run, and the output of a report stage."""
    result = toy.run()
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / REPORT).write_text(json.dumps(made_up_report.to_json()))
    (folder / "front.png").write_bytes(b"picture")
    return result.store, result.run_id, folder


def test_a_report_stands_on_the_workflows_run(
    reported: tuple[Store, str, Path], made_up_report: Report
) -> None:
    store, run_id, folder = reported
    show_report(store, run_id, folder)
    run = store.client.get_run(run_id)
    assert made_up_report.chosen
    assert run.data.metrics["f1"] == made_up_report.chosen.score
    assert len(store.client.get_metric_history(run_id, "front/f1")) > 2
    assert run_id in run.data.tags["mlflow.note.content"]
    files = {one.path for one in store.client.list_artifacts(run_id)}
    assert {"front.json", "front.png"} <= files
    assert "report.html" not in files
    picture = store.download(f"runs:/{run_id}/front.png")
    assert os.stat(picture).st_ino == os.stat(folder / "front.png").st_ino, "it takes room twice"
    tags = store.client.get_experiment(store.experiment_id).tags
    assert "mlflow.sharedViewState.quala-fronts-f1" in tags


def test_it_is_told_once(reported: tuple[Store, str, Path]) -> None:
    store, run_id, folder = reported
    show_report(store, run_id, folder)
    before = store.client.get_metric_history(run_id, "front/f1")
    show_report(store, run_id, folder)
    assert store.client.get_metric_history(run_id, "front/f1") == before
    assert store.client.get_run(run_id).data.tags["mlflow.loggedArtifacts"].count("path") == 1


def test_a_front_that_a_kill_left_out_is_told(
    reported: tuple[Store, str, Path], made_up_report: Report
) -> None:
    store, run_id, folder = reported
    store.record(run_id, figures(made_up_report))
    show_report(store, run_id, folder)
    assert len(store.client.get_metric_history(run_id, "front/f1")) > 2
    assert len(store.client.get_metric_history(run_id, "f1")) == 1


def test_a_resumed_run_has_nothing_twice(toy: Toy) -> None:
    stages = toy.folder / "toy_stages.py"
    stages.write_text(stages.read_text().replace('return {"size"', 'return {"kept": 1.0, "size"'))
    with pytest.raises(RuntimeError):
        toy.run("stage.third.fail=true")
    result = toy.run()
    assert [one.status for one in result.outcomes] == ["cached", "cached", "resumed"]
    client = result.store.client
    for name in ("first", "second", "third"):
        assert len(client.get_metric_history(result.run_id, f"{name}.kept")) == 1, name


def test_mlflow_reads_the_table(reported: tuple[Store, str, Path], made_up_report: Report) -> None:
    store, run_id, folder = reported
    show_report(store, run_id, folder)
    text = store.download(f"runs:/{run_id}/front.json").read_text()
    found = json.loads(text)
    expected = table(made_up_report)
    assert found["columns"] == list(expected[0])
    assert [row[4] for row in found["data"]] == [row["f1"] for row in expected]


def test_a_finished_run_that_is_asked_for_again_is_left_alone(toy: Toy) -> None:
    first = toy.run()
    before = first.store.client.get_metric_history(first.run_id, "size")
    assert toy.run().reused
    assert first.store.client.get_metric_history(first.run_id, "size") == before


def test_a_run_has_its_options(toy: Toy) -> None:
    result = toy.run("stage.second.text=xy")
    run = result.store.client.get_run(result.run_id)
    assert run.data.params["stage.second.text"] == "xy"
    assert run.data.params["model.start"] == "some/hub-name"


def test_a_run_may_have_the_load_of_the_machine(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    result = toy.run("stage.second.sleep=1", "tracking.system_metrics=true")
    run = result.store.client.get_run(result.run_id)
    assert any(key.startswith("system/") for key in run.data.metrics)


def test_candidates_are_a_table_and_on_demand_runs(toy: Toy) -> None:
    result = toy.run("tracking.candidates=false")
    third = result.outcomes[2].run_id
    found = json.loads(result.store.download(f"runs:/{third}/candidates.json").read_text())
    assert found == {"columns": ["name", "f1"], "data": [["c0", 0.0], ["c1", 1.0]]}
    assert not result.store.find({"quala.kind": "candidate"})
    again = toy.run("stage.third.text=z", "tracking.candidates=true")
    runs = again.store.find({"quala.kind": "candidate"})
    assert [run.info.run_name for run in runs] == ["c1", "c0"]
