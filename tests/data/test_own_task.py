"""A task that quala does not know passes through training, saving, scoring and exporting."""

from __future__ import annotations

import ast
import inspect
import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data import own_tasks
from data.own_tasks import Tags, Topics
from plugin_package import files_of
from torch.nn import functional
from transformers import AutoModel

from quala.checkpoint import load_any_model, load_with_data, predict, score_slice
from quala.compress.losses import divergence
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.export.folder import ExportSettings, ladder, write_export
from quala.lengths import LengthConfig
from quala.runtime.card import Card
from quala.runtime.engine import open_export
from quala.stages import finetune, length_adapt, quantize
from quala.workflow import StageContext

WORDS = ("first", "three", "would")


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> DataSpec:
    """160 sentences; each of three words in a sentence is one of its topics."""
    draw = random.Random(0)
    rows = []
    for number in range(160):
        found = [word for word in WORDS if draw.random() < 0.5]
        text = [*draw.choices(("the", "of", "and", "in"), k=4), *found, str(number)]
        draw.shuffle(text)
        rows.append(json.dumps({"text": " ".join(text), "topics": " ".join(found)}))
    file = tmp_path_factory.mktemp("topics") / "all.jsonl"
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return DataSpec(
        task="data.own_tasks.TopicsFormat",
        path=str(file),
        max_length=32,
        search_size=16,
        selection_size=16,
    )


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Path,
    configure: Any,
    topics: DataSpec,
) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    config = configure("finetune", epochs=15, learning_rate=5e-3)
    context = StageContext.alone("finetune", folder)
    finetune.run(config, context, {"model": tiny_checkpoint, "data": topics})
    return folder / "output"


def test_the_losses_are_binary(topics: DataSpec, tiny_checkpoint: Path) -> None:
    task = load_with_data(tiny_checkpoint, topics, head="or_new").data.task
    assert task == Topics(3, names=WORDS)
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 0], [1, 0, 0]])
    mask = torch.ones(4, 5)
    loss = task.loss(logits, {"labels": labels, "attention_mask": mask})  # type: ignore[typeddict-item]
    expected = functional.binary_cross_entropy_with_logits(logits, labels.float())
    torch.testing.assert_close(loss, expected)
    soft = partial(divergence, temperature=2.0, direction="forward")
    assert float(task.soft_loss(logits, logits, mask, soft)) == pytest.approx(0, abs=1e-6)


def test_the_guide_shows_this_task() -> None:
    shown = classes_of(files_of("add-a-task.md")["quala_topics.py"])
    tested = classes_of(inspect.getsource(own_tasks).replace("data.own_tasks.", "quala_topics."))
    assert shown == {name: tested[name] for name in ("TopicsExample", "Topics", "TopicsFormat")}


def classes_of(code: str) -> dict[str, str]:
    classes = (node for node in ast.parse(code).body if isinstance(node, ast.ClassDef))
    return {node.name: ast.unparse(node) for node in classes}


def test_training_learns_it(trained: Path, topics: DataSpec, tiny_checkpoint: Path) -> None:
    before = load_with_data(tiny_checkpoint, topics, head="or_new")
    after = load_with_data(trained, topics)
    scores = [score_slice(one, one.data.test, batch_size=8)["accuracy"] for one in (before, after)]
    assert scores[1] > max(80.0, scores[0])


def test_a_saved_model_says_its_task_without_data(trained: Path) -> None:
    model = load_any_model(trained)
    assert model.task == Topics(3, names=WORDS)
    assert model.arch.outputs == 3


def test_data_of_another_task_are_refused(trained: Path, spec: DataSpec) -> None:
    with pytest.raises(QualaError, match=r"trained for data\.own_tasks\.Topics with 3 outputs"):
        load_with_data(trained, spec)


def test_the_small_adaptive_integer_model_is_exported(
    trained: Path, configure: Any, topics: DataSpec, tmp_path: Path
) -> None:
    inputs: dict[str, Any] = {"model": trained, "teacher": trained, "data": topics}
    for module, stage, changes in (
        (length_adapt, "length_adapt", {"max_steps": 1}),
        (quantize, "quantize", {"method": "ptq"}),
    ):
        context = StageContext.alone(stage, tmp_path / stage)
        module.run(configure(stage, **changes), context, inputs)  # type: ignore[attr-defined]
        inputs["model"] = context.output
    checkpoint = load_with_data(inputs["model"], topics)
    model, features = checkpoint.model.eval(), checkpoint.data.test.features
    assert (checkpoint.precision, model.significance.name) == ("int8", "cls")
    folder = tmp_path / "export"
    settings = ExportSettings(windows=topics.windows, repeats=0)
    write_export(model, checkpoint.tokenizer, folder, front=ladder(model, 32), settings=settings)
    card = Card.read(folder)
    assert (card.task, card.metric) == (Topics.kind, "accuracy")
    engine = open_export(folder, card, runtime="onnxruntime", threads=1)
    lengths = LengthConfig((24, 12), 32)
    exported = [engine.logits(features.arrays([row]), lengths)[0] for row in range(len(features))]
    expected = predict(model, features, batch_size=1, pad_to=None, lengths=lengths)
    np.testing.assert_allclose(exported, expected, atol=1e-3)


def test_outputs_of_each_token_are_restored_and_exported(
    tiny_checkpoint: Path, topics: DataSpec, tmp_path: Path
) -> None:
    source = load_with_data(tiny_checkpoint, topics, head="or_new")
    features = source.data.test.features
    AutoModel.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path)
    model = load_any_model(tmp_path, task=Tags(5), significance="cls", head="or_new").eval()
    lengths = LengthConfig((24, 12), 32)
    expected = predict(model, features, batch_size=1, pad_to=None, lengths=lengths)
    assert [one.shape for one in expected] == [(count, 5) for count in features.lengths]
    settings = ExportSettings(windows=topics.windows, repeats=0)
    card = write_export(
        model,
        source.tokenizer,
        tmp_path / "export",
        front=ladder(model, 32),
        settings=settings,
    )
    engine = open_export(tmp_path / "export", card, runtime="onnxruntime", threads=1)
    for row, logits in enumerate(expected):
        found = engine.logits(features.arrays([row]), lengths)[0]
        np.testing.assert_allclose(found, logits, atol=1e-4)
