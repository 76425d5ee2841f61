"""The export stage writes the measured front; a classifier is exported too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quala.checkpoint import load_with_data
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.runtime.answerer import load
from quala.runtime.card import Card
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
    assert text.startswith("# Tiny\n")
    for point in json.loads((context.output / "quala.json").read_text())["front"][1:]:
        assert ",".join(map(str, point["lengths"])) in text


def test_sizes_below_their_least_are_refused(configure: Any) -> None:
    with pytest.raises(QualaError, match="`threads` must be at least 1"):
        configure("export", threads=0)
