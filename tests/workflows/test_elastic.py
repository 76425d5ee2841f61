"""Lengths, widths and depths in one training, end to end at toy size: rows, budgets, answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import QUESTIONS, Toy, output

pytestmark = pytest.mark.slow

CLASSES = ["experiment=glue", "data.name=null", "data.subset=null", "data.max_length=32"]
ELASTIC = ["stage/length_adapt=elastic", "stage.length_adapt.widths=[1.0,0.5]"]
TIMED = ["stage.search.cost=latency", "stage.search.runtime=onnxruntime"]
ONNX = ["stage.measure.runtime=onnxruntime", "stage.measure.front_points=4"]


@dataclass(frozen=True)
class Case:
    """A command line, the stage whose model is searched, and whether lengths are searched too."""

    workflow: str
    words: list[str]
    served: str
    spec: dict[str, Any]
    drops: bool = True


QUESTION_SPEC = {
    "task": "squad", "name": "demo", "max_length": 128, "doc_stride": 32,
    "max_question_length": 32, "max_train": 24, "max_test": 8,
}  # fmt: skip
CASES = {
    "dynabert": Case(
        "dynabert",
        [*QUESTIONS, "experiment=dynabert/demo", "stage.length_adapt.widths=[1.0,0.5]", *ONNX],
        "quantize", QUESTION_SPEC, drops=False,
    ),
    "answers in int8": Case(
        "quala_minilm", [*QUESTIONS, *ELASTIC, *ONNX, "stage.distill.layers=2"],
        "quantize", QUESTION_SPEC,
    ),
    "classes by milliseconds": Case(
        "quala_minilm", [*CLASSES, *ELASTIC, *ONNX, *TIMED, "stage.quantize.method=qat"],
        "quantize", {"task": "glue", "max_length": 32},
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def done(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Path,
    migrated_database: Path,
    fast: None,
) -> tuple[Case, Any, Toy, dict[str, Any]]:
    """A case, what its run says, the folder that it ran in, and where its data are."""
    case, words, place = request.param, [], {}
    folder = tmp_path_factory.mktemp("elastic")
    if case.spec["task"] == "glue":
        file = folder / "mine.tsv"
        rows = [f"the {['first', 'three'][n % 2]} of {n}\t{n % 2}" for n in range(80)]
        file.write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
        words, place = [f"data.path={file}"], {"path": str(file)}
    sizes = [*case.words, *words]
    toy = Toy(folder, tiny_checkpoint, migrated_database, sizes, workflow=case.workflow)
    return case, toy("run"), toy, place


Done = tuple[Case, Any, Toy, dict[str, Any]]


def test_a_second_run_is_cached(done: Done) -> None:
    _, result, toy, _ = done
    ran = [one["stage"] for one in result["stages"] if one["status"] == "done"]
    planned = toy.statuses("plan")
    assert {planned[stage] for stage in ran} == {"cached"}


def test_a_search_is_over_structures_and_lengths(done: Done) -> None:
    case, result, *_ = done
    found = json.loads((output(result, "search") / "search.json").read_text())
    layers = [one["lengths"].get("layers") for one in found["candidates"]]
    assert None in layers
    assert any(layers)
    dropping = [len({*one["lengths"]["lengths"]}) > 1 for one in found["candidates"]]
    assert case.drops or not any(dropping)
    measured = [row for row in rows(result) if row["role"] in ("front", "chosen")]
    # which points are fast is chance at this size
    assert any("layers" in row for row in measured) or found["unit"] == "ms"


def rows(result: Any) -> list[dict[str, Any]]:
    return json.loads((output(result, "report") / "report.json").read_text())["rows"]


def test_the_export_is_the_model_at_every_point(done: Done) -> None:
    from quala.checkpoint import load_with_data, predict
    from quala.data.spec import DataSpec
    from quala.runtime.card import Card
    from quala.runtime.engine import open_export

    case, result, _, place = done
    opened = load_with_data(output(result, case.served), DataSpec(**case.spec, **place))
    folder = output(result, "export")
    card = Card.read(folder)
    engine = open_export(folder, card, runtime="onnxruntime", threads=1)
    features = opened.data.test.features
    points = [point.lengths for point in card.front]
    points += [card.full.lengths.of(layers) for layers in opened.model.structures[1:]]
    assert len(opened.model.structures) == 4
    for point in points:
        expected = predict(opened.model, features, batch_size=4, pad_to=None, lengths=point)
        for row in range(3):
            found = engine.logits(features.arrays([row]), point)[0]
            np.testing.assert_allclose(found, expected[row], atol=2e-3)
