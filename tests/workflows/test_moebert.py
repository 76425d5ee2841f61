"""MoEBERT from end to end at toy size: both counts of its parameters, its file and its answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commandline import QUESTIONS, Toy, output

from quala.cli.entry import main
from quala.models.load import weights_file

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def toy(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Path,
    migrated_database: Path,
    fast: None,
) -> Toy:
    words = [*QUESTIONS, "stage.distill.layers=null"]
    folder = tmp_path_factory.mktemp("moebert")
    return Toy(folder, tiny_checkpoint, migrated_database, words, workflow="moebert")


@pytest.fixture(scope="module")
def result(toy: Toy) -> Any:
    """What the first run says."""
    return toy("run")


def rows_of(result: Any) -> Any:
    return json.loads((output(result, "report") / "report.json").read_text())["rows"]


def test_total_and_active_parameters_are_beside_the_size(
    result: Any, toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, row = rows_of(result)
    assert (row["model"], row["role"], row["precision"]) == ("moebert", "full", "fp32")
    assert "active" not in teacher
    assert row["active"] < row["parameters"]
    assert row["macs_padded"] < teacher["macs_padded"]
    student = output(result, "distill")
    assert row["size_bytes"] == weights_file(student).stat().st_size
    assert main(["cost", "--model", str(student), "--sequence-length", "32", "--json"]) == 0
    cost = json.loads(capsys.readouterr().out)
    assert (cost["parameters"], cost["active_parameters"]) == (row["parameters"], row["active"])
    pruned = rows_of(toy("run", "stage.distill.experts.count=1"))[1]
    assert (pruned["parameters"], pruned.get("active")) == (row["active"], None)
    assert pruned["macs_padded"] == row["macs_padded"]
    uri = result["tracking_uri"]
    assert main(["report", "--compare", "--tracking-uri", uri, "--out", str(tmp_path)]) == 0
    assert " active)" in (tmp_path / "compare.md").read_text()


@pytest.mark.parametrize("words", [[], ["stage/distill=moebert_int8"]])
def test_a_routed_model_is_exported_and_answers(
    words: list[str], result: Any, toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    done = toy("run", *words) if words else result
    assert rows_of(done)[1]["precision"] == ("int8" if words else "fp32")
    asked = ["--question", "Who?", "--context", "It was Anna.", "--json"]
    assert main(["answer", str(output(done, "export")), *asked]) == 0
    answer = json.loads(capsys.readouterr().out)["answers"][0]
    assert main(["answer", str(output(done, "export")), *asked, "--runtime", "openvino"]) == 0
    other = json.loads(capsys.readouterr().out)["answers"][0]
    assert other["text"] == answer["text"]


def test_another_table_is_another_student(result: Any, toy: Toy) -> None:
    found = toy.statuses("plan", "stage.distill.experts.routing=hash_balance")
    assert [found[stage] for stage in ("finetune", "distill")] == ["cached", "stale"]
