"""The workflow from end to end at toy size, through the command line."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from commandline import QUESTIONS, STAGES, Toy, options_of, output, quiet_logging

from quala.cli.entry import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def toy(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Path,
    migrated_database: Path,
    fast: None,
) -> Toy:
    folder = tmp_path_factory.mktemp("workflow")
    return Toy(folder, tiny_checkpoint, migrated_database, QUESTIONS)


@pytest.fixture(scope="module")
def result(toy: Toy) -> Any:
    """What the first run says."""
    return toy("run")


def test_all_stages_are_done_and_tracked(result: Any, toy: Toy) -> None:
    from mlflow import MlflowClient

    assert [(one["stage"], one["status"]) for one in result["stages"]] == [
        (stage, "done") for stage in STAGES
    ]
    client = MlflowClient(tracking_uri=result["tracking_uri"])
    assert client.get_run(result["run_id"]).info.status == "FINISHED"
    for stage in result["stages"]:
        run = client.get_run(stage["run_id"])
        assert run.info.status == "FINISHED"
        assert len(run.data.tags["mlflow.quala.fingerprint"]) >= 32
        assert run.data.tags["mlflow.parentRunId"] == result["run_id"]
        assert stage["metrics"].items() <= run.data.metrics.items()


def test_the_report_is_there(result: Any) -> None:
    folder = output(result, "report")
    assert (folder / "front.png").stat().st_size > 1000
    assert "<html" in (folder / "report.html").read_text().lower()
    rows = json.loads((folder / "report.json").read_text())["rows"]
    assert [row["model"] for row in rows][:4] == ["fine-tuned", *["supernet"] * 2, "quala"]
    assert [row["role"] for row in rows].count("chosen") == 1


def test_candidates_are_a_table_of_the_search(result: Any, toy: Toy) -> None:
    search = next(one for one in result["stages"] if one["stage"] == "search")
    table = json.loads((output(result, "search").parent / "candidates.json").read_text())
    assert len(table["data"]) == search["metrics"]["search/candidates"] == 6


def test_the_workflows_run_has_the_front(result: Any, toy: Toy) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=result["tracking_uri"])
    run = client.get_run(result["run_id"])
    rows = json.loads((output(result, "report") / "report.json").read_text())["rows"]
    chosen = next(row for row in rows if row["role"] == "chosen")
    assert run.data.metrics["f1"] == chosen["score"]
    points = [row for row in rows if row["role"] in ("front", "chosen")]
    history = client.get_metric_history(result["run_id"], "front/f1")
    assert {row["score"] for row in points} <= {point.value for point in history}
    assert run.outputs is not None
    assert len(run.outputs.model_outputs) == 1
    assert run.data.params["stage.search.max_evaluations"] == "6"


def test_nothing_is_computed_twice(result: Any, toy: Toy) -> None:
    again = toy("run")
    assert again["reused"]
    assert again["run_id"] == result["run_id"]
    assert {one["status"] for one in again["stages"]} == {"cached"}


def test_how_often_is_logged_changes_nothing(result: Any, toy: Toy) -> None:
    found = toy.statuses("plan", "stage.length_adapt.log_every=7", "stage.search.workers=2")
    assert set(found.values()) == {"cached"}


def test_an_option_changes_its_stage_and_what_follows(result: Any, toy: Toy) -> None:
    found = toy.statuses("plan", "stage.length_adapt.bound=0.2")
    assert [found[stage] for stage in STAGES] == ["cached"] * 2 + ["stale"] * 6


@pytest.mark.parametrize(
    ("left_out", "roles", "precisions"),
    [
        (["quantize"], {"full", "front", "chosen"}, {"fp32"}),
        (["length_adapt", "search"], {"full"}, {"int8"}),
    ],
)
def test_stages_can_be_left_out(
    left_out: list[str], roles: set[str], precisions: set[str], result: Any, toy: Toy
) -> None:
    less = toy("run", *(f"stage.{stage}.enabled=false" for stage in left_out))
    folder = output(less, "report")
    rows = json.loads((folder / "report.json").read_text())["rows"]
    ours = [row for row in rows if row["model"] == "quala"]
    assert {row["model"] for row in rows} == {"fine-tuned", "quala"}
    assert {row["precision"] for row in ours} == precisions
    assert {row["role"] for row in ours} >= {"full"}
    assert {row["role"] for row in ours} <= roles
    assert (folder / "front.png").stat().st_size > 1000


def test_a_student_learns_from_a_cached_teacher(result: Any, toy: Toy) -> None:
    found = toy("run", "stage/distill=hsk", "flow.until=distill")["stages"]
    assert [one["status"] for one in found[:2]] == ["cached", "done"]
    assert found[1]["metrics"]["cache/mebibytes"] > 0
    # The words go with the other files of the training.
    assert not list((toy.store / "work").rglob("teacher"))


def test_a_student_can_be_given(result: Any, toy: Toy, tmp_path: Path) -> None:
    shutil.copytree(output(result, "distill"), tmp_path / "mine")
    words = [f"stage.distill.given={tmp_path / 'mine'}", "flow.until=length_adapt"]
    found = toy.statuses("run", *words)
    assert [found[stage] for stage in STAGES[:4]] == ["cached", "given", "done", "left out"]


def test_a_folder_that_is_no_checkpoint_is_one_sentence(
    result: Any, toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    words = [f"stage.distill.given={tmp_path / 'empty'}", "flow.until=length_adapt"]
    with quiet_logging():
        own = options_of("quala_minilm", [*toy.words, *words])
        assert main(["run", "quala_minilm", *own]) == 2
    assert "error: `stage.distill.given`: There is no file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "word", "sentence"),
    [
        (
            "measure",
            "stage.distill.seed=7",
            "`stage.measure.given` was made with another `model`",
        ),
        ("measure", "data.max_test=7", "another `data` (max_test 8 -> 7): its figures are not"),
        ("search", "data.max_length=112", "for layers=1, data.max_length=128, got 1 and 112"),
    ],
)
def test_figures_of_something_else_are_refused(
    result: Any,
    toy: Toy,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    word: str,
    sentence: str,
) -> None:
    given = f"stage.{stage}.given={output(result, stage)}"
    own = options_of("quala_minilm", [*toy.words, given, word, "stage.search.enabled=true"])
    with quiet_logging():
        assert main(["run", "quala_minilm", *own]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("subset", ["null", "sst2"])
def test_classification_from_one_file(
    subset: str, tiny_checkpoint: Path, migrated_database: Path, tmp_path: Path, fast: None
) -> None:
    draw = random.Random(0)
    rows = [f"the {draw.choice(['first', 'three'])} of {n}\t{n % 2}" for n in range(80)]
    (tmp_path / "mine.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    words = ["experiment=glue", "data.name=null", f"data.path={tmp_path / 'mine.tsv'}",
             f"data.subset={subset}", "data.max_length=32", "stage.search.step=4"]  # fmt: skip
    if subset == "sst2":
        words.append("flow.until=finetune")
    toy = Toy(tmp_path, tiny_checkpoint, migrated_database, words)
    result = toy("run")
    if subset == "sst2":
        assert 0 <= result["stages"][0]["metrics"]["selection/accuracy"] <= 100
        return
    assert [one["stage"] for one in result["stages"]] == [s for s in STAGES if s != "distill"]
    rows = json.loads((output(result, "report") / "report.json").read_text())["rows"]
    assert {row["metric"] for row in rows} == {"accuracy"}
    assert {row["precision"] for row in rows} == {"fp32", "int8"}


def test_a_run_answers_is_exported_and_registered(
    result: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ["--tracking-uri", result["tracking_uri"]]
    asked = ["--question", "Who?", "--context", "It was Anna.", "--json", *store]
    assert main(["answer", result["run_id"], *asked]) == 0
    reply = json.loads(capsys.readouterr().out)
    words = ["export", result["run_id"], "--out", str(tmp_path / "out"), "--register", "toy"]
    assert main([*words, *store]) == 0
    assert "models:/toy@chosen, version 1" in capsys.readouterr().out
    for model in (str(tmp_path / "out"), "models:/toy@chosen"):
        assert main(["answer", model, *asked]) == 0
        assert json.loads(capsys.readouterr().out)["answers"] == reply["answers"]
