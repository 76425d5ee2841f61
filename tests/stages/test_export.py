"""The export stage writes the measured front; a classifier is exported too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.repocard import metadata_load

from quala.checkpoint import load_with_data
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.runtime.answerer import load
from quala.runtime.card import Card
from quala.runtime.hardware import Conditions, Watch
from quala.stages import export, measure
from quala.workflow import StageContext


@pytest.fixture
def measured(
    configure: Any,
    tiny_checkpoint: Path,
    supernet: Path,
    integer: Path,
    found: Path,
    spec: DataSpec,
    tmp_path: Path,
) -> Path:
    inputs = {"data": spec, "baseline": tiny_checkpoint, "supernet": supernet, "model": integer,
              "search": found}  # fmt: skip
    context = StageContext.alone("measure", tmp_path / "measure")
    measure.run(configure("measure"), context, inputs)
    return context.output


def test_the_front_is_the_measured_one(
    configure: Any, measured: Path, integer: Path, spec: DataSpec, tmp_path: Path
) -> None:
    context = StageContext.alone("export", tmp_path)
    inputs = {"data": spec, "model": integer, "measure": measured}
    figures = export.run(configure("export", repeats=1), context, inputs)
    card = Card.read(context.output)
    rows = [row for row in measure.read_rows(measured) if row.model == "quala"]
    assert [point.score for point in card.front] == [row.score for row in rows]
    assert [point.lengths.lengths for point in card.front[1:]] == [row.lengths for row in rows[1:]]
    assert all(set(point.ms) == {64, 128} for point in card.front)
    assert figures["export/bytes"] == (context.output / "model.onnx").stat().st_size
    assert load(context.output).answer("Who?", "It was Anna.").answers


def test_the_exported_rows_are_those_of_the_last_model(
    configure: Any, tiny_checkpoint: Path, integer: Path, spec: DataSpec, tmp_path: Path
) -> None:
    inputs = {"data": spec, "baseline": tiny_checkpoint, "model": integer}
    made = StageContext.alone("measure", tmp_path / "measure")
    measure.run(configure("measure", name="mine"), made, inputs)
    context = StageContext.alone("export", tmp_path)
    given = {"data": spec, "model": integer, "measure": made.output}
    export.run(configure("export", repeats=0), context, given)
    (point,) = Card.read(context.output).front
    assert point.score == measure.read_rows(made.output)[-1].score
    assert not any(point.lengths.drops)


@pytest.mark.parametrize("change", [{"max_length": 112}, {"task": "glue"}, {"layers": 1}])
def test_rows_of_something_else_are_not_exported(
    measured: Path, integer: Path, spec: DataSpec, tmp_path: Path, change: dict[str, Any]
) -> None:
    data = replace(spec, max_length=change.get("max_length", 128))
    opened = load_with_data(integer, data)
    if "layers" in change:
        rows = json.loads((measured / measure.ROWS).read_text())
        for row in rows:
            row["lengths"] = row["lengths"] and row["lengths"][:1]
        (measured / measure.ROWS).write_text(json.dumps(rows))
    if "task" in change:
        rows = [
            row | {"metric": "accuracy"}
            for row in json.loads((measured / measure.ROWS).read_text())
        ]
        (measured / measure.ROWS).write_text(json.dumps(rows))
    with pytest.raises(QualaError, match=r"of another model, task or data\.max_length"):
        export.measured_front(opened, measured)


def test_the_model_card_names_every_point(
    configure: Any, measured: Path, integer: Path, spec: DataSpec, tmp_path: Path
) -> None:
    context = StageContext.alone("export", tmp_path)
    inputs = {"data": spec, "model": integer, "measure": measured}
    export.run(configure("export", repeats=0, title="Tiny"), context, inputs)
    text = (context.output / "README.md").read_text(encoding="utf-8")
    assert "---\n\n# Tiny\n" in text
    for point in json.loads((context.output / "quala.json").read_text())["front"][1:]:
        assert ",".join(map(str, point["lengths"])) in text


def test_the_metadata_say_what_was_measured_and_whose_the_model_is(
    configure: Any, measured: Path, integer: Path, spec: DataSpec, tmp_path: Path
) -> None:
    context = StageContext.alone("export", tmp_path)
    inputs = {"data": spec, "model": integer, "measure": measured}
    export.run(configure("export", repeats=0, license="MIT"), context, inputs)
    card, data = Card.read(context.output), metadata_load(context.output / "README.md") or {}
    rows = [row for row in measure.read_rows(measured) if row.model == "quala"]
    (chosen,) = (row for row in rows if row.role == "chosen")
    assert [point.chosen for point in card.front] == [row is chosen for row in rows]
    assert (card.licence, data["license"]) == ("MIT", "mit")
    (found,) = data["model-index"][0]["results"]
    assert found["dataset"] == {"name": "demo", "type": "demo", "split": "validation"}
    shown = dict.fromkeys(round(row.score or 0, 2) for row in (rows[0], chosen))
    assert list(dict.fromkeys(one["value"] for one in found["metrics"])) == list(shown)


def test_what_was_measured_is_named_as_the_hub_names_it(tmp_path: Path) -> None:
    glue = DataSpec(task="glue", name="nyu-mll/glue", subset="sst2", test_split="validation")
    found = export.measured_data(glue, "SST-2")
    assert (found.name, found.subset, found.split) == ("nyu-mll/glue", "sst2", "validation")
    file = tmp_path / "mine.csv"
    file.write_text("text,label\na,b\n")
    found = export.measured_data(DataSpec(task="glue", path=str(file)), "mine.csv")
    assert (found.title, found.name, found.split) == ("mine.csv", "", "")


def test_the_model_card_says_what_speed_ups_are_over_and_how_sure_scores_are(
    configure: Any, measured: Path, integer: Path, spec: DataSpec, tmp_path: Path
) -> None:
    file = measured / "rows.json"
    rows = json.loads(file.read_text())
    reference = {**rows[0], "model": "bert-base, random weights", "score": None, "interval": None}
    rows[0]["role"] = "full"
    file.write_text(json.dumps([reference, *rows]))
    context = StageContext.alone("export", tmp_path)
    inputs = {"data": spec, "model": integer, "measure": measured}
    export.run(configure("export", repeats=0, title="Tiny on GLUE"), context, inputs)
    text = (context.output / "README.md").read_text(encoding="utf-8")
    assert "---\n\n# Tiny on demo\n" in text
    own, base = (text.index(f"Speed-up over {name}") for name in ("fine-tuned", "bert-base"))
    assert own < base
    assert "the 8 examples of the test set" in text
    card = Card.read(context.output)
    assert Card.read(context.output) == card
    for point, row in zip(card.front, measure.read_rows(measured)[-3:], strict=True):
        assert point.interval == row.interval
        assert list(point.speedups) == ["fine-tuned", "bert-base, random weights"]
        assert point.interval is not None
        assert "({:.1f} to {:.1f})".format(*point.interval) in text


@pytest.mark.parametrize("others", [0.0, 1.5])
def test_the_model_card_says_that_the_machine_was_busy(
    configure: Any, measured: Path, integer: Path, spec: DataSpec, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, others: float,
) -> None:  # fmt: skip
    monkeypatch.setattr(Watch, "conditions", lambda watch, spread: Conditions(others, 2, 0.01))
    context = StageContext.alone("export", tmp_path)
    inputs = {"data": spec, "model": integer, "measure": measured}
    export.run(configure("export", repeats=1), context, inputs)
    text = (context.output / "README.md").read_text(encoding="utf-8")
    said = "Measured while the machine was busy: others took 1.5 of 2 cores"
    assert (said in text) == (others > 0)
    assert Card.read(context.output).timing["conditions"]["others"] == others


def test_an_older_measurement_exports_a_chosen_full_length_once(
    configure: Any, measured: Path, integer: Path, spec: DataSpec, tmp_path: Path
) -> None:
    file = measured / "rows.json"
    rows = json.loads(file.read_text())
    twice = {**rows[3], "role": "chosen", "lengths": [128, 128], "tokens": "128,128"}
    file.write_text(json.dumps([*rows[:4], twice, *rows[5:]]))
    (measured / "title.txt").unlink()
    context = StageContext.alone("export", tmp_path)
    inputs = {"data": spec, "model": integer, "measure": measured}
    export.run(configure("export", repeats=0, title="Tiny on GLUE, new"), context, inputs)
    card = Card.read(context.output)
    assert card.name == "Tiny on GLUE, new"
    assert [point.lengths.lengths for point in card.front] == [(128, 128), (64, 32)]


def test_sizes_below_their_least_are_refused(configure: Any) -> None:
    with pytest.raises(QualaError, match="`threads` must be at least 1"):
        configure("export", threads=0)
