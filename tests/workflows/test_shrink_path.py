"""ROSITA and oBERTa from end to end at toy size, and what a step takes from the one before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commandline import QUESTIONS, Toy, output

from quala.models.load import weights_file

pytestmark = pytest.mark.slow

ROSITA = ["stage.distill.layers=null", "stage.distill.shrink.embedding_rank=4"]
OBERTA = ["stage.distill.layers=null", "stage.distill.shrink.score=fisher"]


@pytest.fixture
def toy(tmp_path: Path, tiny_checkpoint: Path, migrated_database: Path, fast: None) -> Any:
    def made(workflow: str, words: list[str]) -> Toy:
        return Toy(
            tmp_path, tiny_checkpoint, migrated_database, [*QUESTIONS, *words], workflow=workflow
        )

    return made


def origins(folder: Path) -> Any:
    return json.loads((folder / "origin.json").read_text())


def test_rosita_is_taught_by_the_step_before(toy: Any) -> None:
    rosita = toy("rosita", ROSITA)
    result = rosita("run")
    assert [(one["stage"], one["status"]) for one in result["stages"]] == [
        (stage, "done")
        for stage in ("finetune", "distill_1", "distill_2", "measure", "report", "export")
    ]
    row = json.loads((output(result, "report") / "report.json").read_text())["rows"][1]
    assert (row["model"], row["precision"]) == ("rosita", "fp32")
    assert row["size_bytes"] == weights_file(output(result, "distill_2")).stat().st_size
    config = json.loads((output(result, "distill_2") / "config.json").read_text())
    assert config["quala_structure"]["embedding_rank"] == 4
    assert set(rosita.statuses("plan").values()) == {"cached"}
    found = rosita.statuses("plan", "stage.distill.shrink.teacher=original")
    assert [found[stage] for stage in ("finetune", "distill_2")] == ["cached", "stale"]


def test_oberta_keeps_its_zeros_at_eight_bits_and_hands_them_on(toy: Any, tmp_path: Path) -> None:
    oberta = toy("oberta", OBERTA)
    result = oberta("run")
    assert [(one["stage"], one["status"]) for one in result["stages"]] == [
        (stage, "done")
        for stage in (
            "finetune", "distill_1", "distill_2", "quantize", "measure", "report", "export"
        )
    ]  # fmt: skip
    rows = json.loads((output(result, "report") / "report.json").read_text())["rows"]
    served = output(result, "quantize")
    assert [(row["model"], row["precision"]) for row in rows] == [
        ("fine-tuned", "fp32"), ("oberta", "int8"),
    ]  # fmt: skip
    assert rows[1]["size_bytes"] == weights_file(served).stat().st_size
    steps = [one["metrics"] for one in result["stages"][1:3]]
    assert steps[0]["shrink/parameters"] > steps[1]["shrink/parameters"]
    # Sparse transfer: the pruned model is fine-tuned with its zeros, and rounded.
    sparse = output(result, "distill_2")
    words = [f"model.teacher={sparse}", "stage.finetune.keep_zeros=true",
             "stage.distill.enabled=false"]  # fmt: skip
    oberta.words = [word for word in oberta.words if "stage.distill" not in word
                    and "model.teacher" not in word]  # fmt: skip
    moved = oberta("run", *words, "flow.until=quantize")
    assert not any(one["stage"].startswith("distill") for one in moved["stages"])
    sizes = [
        weights_file(folder).stat().st_size
        for folder in (sparse, output(moved, "finetune"), output(moved, "quantize"))
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)
    assert sizes[2] == pytest.approx(weights_file(served).stat().st_size, rel=0.05)
