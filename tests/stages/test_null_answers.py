"""Questions without an answer through every stage: trained, tuned, searched, exported, asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unanswerable import write_official

from quala.checkpoint import load_with_data, predict, score_slice
from quala.data.decode import decode_answers, null_differences
from quala.data.spec import DataSpec
from quala.data.task import Span
from quala.errors import QualaError
from quala.models.load import stored_facts
from quala.runtime.answerer import load
from quala.stages import export, finetune, length_adapt, measure, quantize, search
from quala.workflow import StageContext


@pytest.fixture(scope="module")
def null_spec(tmp_path_factory: pytest.TempPathFactory) -> DataSpec:
    folder = write_official(tmp_path_factory.mktemp("squad2"), train=80, test=12)
    return DataSpec(
        task="squad", path=str(folder), unanswerable="keep", max_length=96, doc_stride=16,
        max_question_length=32, max_train=32, search_size=12, selection_size=12,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Path,
    configure: Any,
    null_spec: DataSpec,
) -> tuple[Path, dict[str, float]]:
    context = StageContext.alone("finetune", tmp_path_factory.mktemp("finetune"))
    config = configure("finetune", max_steps=3, selection_every=2)
    figures = finetune.run(config, context, {"data": null_spec, "model": tiny_checkpoint})
    return context.output, figures


@pytest.fixture(scope="module")
def integer(
    tmp_path_factory: pytest.TempPathFactory,
    trained: tuple[Path, Any],
    configure: Any,
    null_spec: DataSpec,
) -> Path:
    adapted = StageContext.alone("length_adapt", tmp_path_factory.mktemp("adapt"))
    inputs: dict[str, Any] = {"data": null_spec, "model": trained[0], "teacher": trained[0]}
    length_adapt.run(configure("length_adapt", max_steps=2), adapted, inputs)
    context = StageContext.alone("quantize", tmp_path_factory.mktemp("quantize"))
    inputs["model"] = adapted.output
    quantize.run(configure("quantize", method="ptq"), context, inputs)
    return context.output


def best_f1(folder: Path, null_spec: DataSpec) -> float:
    """Return the best F1 on the selection slice over all thresholds, each tried by scoring."""
    opened = load_with_data(folder, null_spec)
    part = opened.data.selection
    outputs = predict(opened.model, part.features, batch_size=8, pad_to=None)
    decoded = decode_answers(part.examples, part.features, outputs, decoding=null_spec.decoding)
    tried = [*null_differences(part.features, outputs, decoded).values(), -1e6]
    found = []
    for threshold in tried:
        opened.data.task = Span(null=True, null_threshold=threshold)
        found.append(opened.data.score(part, outputs)["f1"])
    return max(found)


def test_a_training_ends_with_the_best_threshold_of_its_own_weights(
    trained: tuple[Path, dict[str, float]], null_spec: DataSpec
) -> None:
    folder, figures = trained
    assert figures["selection/f1"] == pytest.approx(best_f1(folder, null_spec))
    assert figures["selection/f1"] == figures["selection/best"]
    assert {"selection/has_answer_f1", "selection/no_answer_exact_match"} <= figures.keys()
    opened = load_with_data(folder, null_spec)
    assert opened.data.task.facts == {"null_threshold": stored_facts(folder)["null_threshold"]}
    found = score_slice(opened, opened.data.selection, batch_size=8)
    assert found["f1"] == pytest.approx(figures["selection/f1"])


def test_integer_models_are_tuned_anew(integer: Path, null_spec: DataSpec) -> None:
    opened = load_with_data(integer, null_spec)
    found = score_slice(opened, opened.data.selection, batch_size=8)["f1"]
    assert found == pytest.approx(best_f1(integer, null_spec))


def test_a_model_that_always_answers_is_refused_but_for_finetune(
    supernet: Path, null_spec: DataSpec
) -> None:
    with pytest.raises(QualaError, match="not trained with unanswerable questions"):
        load_with_data(supernet, null_spec)
    assert load_with_data(supernet, null_spec, head="or_new").model.task.keeps_first


def test_a_model_of_another_tool_is_tuned_where_it_is_measured(
    tiny_checkpoint: Path, null_spec: DataSpec, configure: Any, tmp_path: Path
) -> None:
    inputs = {"data": null_spec, "model": tiny_checkpoint}
    context = StageContext.alone("measure", tmp_path)
    measure.run(configure("measure"), context, inputs)
    (row,) = measure.read_rows(context.output)
    opened = load_with_data(tiny_checkpoint, null_spec)
    untuned = score_slice(opened, opened.data.test, batch_size=8)["f1"]
    assert row.score != pytest.approx(untuned)


def test_the_export_answers_as_the_test_set_was_scored(
    trained: tuple[Path, Any], integer: Path, null_spec: DataSpec, configure: Any, tmp_path: Path
) -> None:
    inputs: dict[str, Any] = {"data": null_spec, "baseline": trained[0], "model": integer}
    searched = StageContext.alone("search", tmp_path / "search")
    search.run(configure("search", max_evaluations=4, workers=1), searched, inputs)
    inputs["search"] = searched.output
    measured = StageContext.alone("measure", tmp_path / "measure")
    figures = measure.run(configure("measure", runtime="onnxruntime"), measured, inputs)
    assert 0 <= figures["test/quala_full_no_answer_f1"] <= 100
    inputs["measure"] = measured.output
    exported = StageContext.alone("export", tmp_path / "export")
    export.run(configure("export", repeats=0), exported, inputs)
    card = json.loads((exported.output / "quala.json").read_text())
    assert card["null_threshold"] == stored_facts(integer)["null_threshold"]
    model, part = load(exported.output), load_with_data(integer, null_spec).data.test
    said = json.loads((measured.output / "predictions" / "quala_full.json").read_text())
    replies = {one.id: model.answer(one.question, one.context) for one in part.examples}
    texts = {name: "".join(one.text for one in found.answers) for name, found in replies.items()}
    assert texts == said
    chances = [found.no_answer for found in replies.values()]
    assert [not found.answers for found in replies.values()] == [one > 0.5 for one in chances]
    assert np.ptp(chances) > 0
