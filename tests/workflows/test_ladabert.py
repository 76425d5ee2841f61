"""LadaBERT from end to end at toy size: a training for each step, and the bytes of its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commandline import QUESTIONS, Toy, output, quiet_logging

from quala.cli.entry import main
from quala.models.load import weights_file

pytestmark = pytest.mark.slow

STEPS = ["distill_1", "distill_2"]
RATIO = 4.0


@pytest.fixture(scope="module")
def toy(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Path,
    migrated_database: Path,
    fast: None,
) -> Toy:
    folder = tmp_path_factory.mktemp("ladabert")
    words = ["stage.distill.layers=null", f"stage.distill.shrink.ratio={RATIO}"]
    return Toy(
        folder, tiny_checkpoint, migrated_database, [*QUESTIONS, *words], workflow="ladabert"
    )


@pytest.fixture(scope="module")
def result(toy: Toy) -> Any:
    """What the first run says."""
    return toy("run")


def parameters(config: dict[str, Any]) -> int:
    """Count the parameters of a dense model."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    rows = sum(config[key] for key in ("vocab_size", "max_position_embeddings", "type_vocab_size"))
    layer = 4 * (width + 1) * width + (width + 1) * inner + (inner + 1) * width + 4 * width
    return rows * width + 2 * width + config["num_hidden_layers"] * layer + 2 * (width + 1)


def test_each_step_is_a_training_of_its_own(result: Any, tiny_checkpoint: Path) -> None:
    stages = [(one["stage"], one["status"]) for one in result["stages"]]
    assert stages == [
        (stage, "done") for stage in ("finetune", *STEPS, "measure", "report", "export")
    ]
    original = parameters(json.loads((tiny_checkpoint / "config.json").read_text()))
    figures = {one["stage"]: one["metrics"] for one in result["stages"]}
    assert [figures[step]["shrink/parameters"] for step in STEPS] == [
        round(original / RATIO**0.5), round(original / RATIO),
    ]  # fmt: skip


def test_the_row_has_the_size_of_the_file(result: Any) -> None:
    rows = json.loads((output(result, "report") / "report.json").read_text())["rows"]
    assert [(row["model"], row["role"], row["precision"]) for row in rows] == [
        ("fine-tuned", "baseline", "fp32"), ("ladabert", "full", "fp32"),
    ]  # fmt: skip
    assert rows[1]["score"] is not None
    stored = weights_file(output(result, STEPS[-1])).stat().st_size
    assert rows[1]["size_bytes"] == stored
    left = result["stages"][2]["metrics"]["shrink/parameters"]
    assert 4 * left < stored < rows[0]["size_bytes"] / RATIO * 1.5


def test_the_student_is_exported_and_answers(
    result: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--question", "Who?", "--context", "It was Anna.", "--json"]
    folders = output(result, "export"), output(result, STEPS[-1])
    assert main(["answer", str(folders[0]), *asked]) == 0
    assert json.loads(capsys.readouterr().out)["answers"]
    graph = (folders[0] / "model.onnx").stat().st_size
    assert graph > weights_file(folders[1]).stat().st_size


def test_nothing_is_computed_twice(result: Any, toy: Toy) -> None:
    assert set(toy.statuses("plan").values()) == {"cached"}


def test_another_ratio_keeps_the_teacher(result: Any, toy: Toy) -> None:
    found = toy.statuses("plan", "stage.distill.shrink.ratio=5")
    assert [found[stage] for stage in ("finetune", *STEPS)] == ["cached", "stale", "stale"]


def test_ratios_are_one_sweep(result: Any, toy: Toy) -> None:
    jobs = toy("run", "stage.distill.shrink.ratio=2.5,7.5", "flow.until=distill_2", "-m")["jobs"]
    assert [job["status"] for job in jobs] == ["FINISHED", "FINISHED"]


def test_only_the_last_step_rounds(result: Any, toy: Toy) -> None:
    words = ["stage/distill=ladabert_int8", "flow.until=distill_2"]
    done = toy("run", *words)
    folders = [output(done, step) for step in STEPS]
    cards = [json.loads((folder / "quala.json").read_text()) for folder in folders]
    assert [card.get("precision") for card in cards] == [None, "int8"]
    assert [one["status"] for one in done["stages"][:3]] == ["cached", "cached", "done"]
    sizes = [weights_file(output(one, STEPS[1])).stat() for one in (done, result)]
    assert sizes[0].st_size < sizes[1].st_size


def test_a_recipe_that_makes_nothing_smaller_is_one_sentence(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in toy.words if "shrink" not in word]
    with quiet_logging():
        assert main(["plan", "ladabert", *words, "stage.distill.shrink=null"]) == 2
    assert "error: `stage.distill.shrink` is null" in capsys.readouterr().err
