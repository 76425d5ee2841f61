"""Finetune: what its folder says to transformers, new heads, and start models that are refused."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commandline import quiet_logging
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForQuestionAnswering, BertModel, pipeline

from quala.checkpoint import load_any_model, load_with_data, predict
from quala.cli.entry import main
from quala.data.spec import DataSpec
from quala.data.taskdata import TaskData
from quala.errors import QualaError
from quala.runtime.card import Card
from quala.stages import distill, export, finetune, length_adapt, measure, quantize
from quala.stages.teacher import check_teacher
from quala.workflow import StageContext
from quala.workflow.compose import composed, typed
from quala.workflow.script import find_workflow

WORDS = {"first": "praise", "three": "blame", "would": "neither"}


def write(file: Path, rows: list[str]) -> DataSpec:
    file.write_text("\n".join(["sentence\tlabel", *rows]) + "\n", encoding="utf-8")
    return DataSpec(task="glue", path=str(file), max_length=32, search_size=16, selection_size=16)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> DataSpec:
    """240 sentences whose labels are texts; one word of each decides its label."""
    draw, rows = random.Random(0), []
    for number in range(240):
        word = list(WORDS)[number % 3]
        filler = [*draw.choices(["the", "of", "and", "in"], k=4), word, str(number)]
        draw.shuffle(filler)
        rows.append(f"{' '.join(filler)}\t{WORDS[word]}")
    return write(tmp_path_factory.mktemp("named") / "all.tsv", rows)


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, configure: Any, named: Any
) -> Path:
    context = StageContext.alone("finetune", tmp_path_factory.mktemp("trained"))
    config = configure("finetune", epochs=25, learning_rate=5e-3)
    finetune.run(config, context, {"model": tiny_checkpoint, "data": named})
    return context.output


def test_a_pipeline_of_transformers_gives_the_same_labels(trained: Path, named: DataSpec) -> None:
    opened = load_with_data(trained, named)
    names, part = opened.data.task.names, opened.data.test  # type: ignore[attr-defined]
    assert names == ("blame", "neither", "praise")
    outputs = predict(opened.model.eval(), part.features, batch_size=8, pad_to=None)
    ours = [names[int(logits.argmax())] for logits in outputs]
    classify: Any = pipeline("text-classification", model=str(trained), device="cpu")
    theirs = classify([example.text for example in part.examples])  # type: ignore[union-attr]
    assert [one["label"] for one in theirs] == ours
    gold = [names[example.label] for example in part.examples]  # type: ignore[union-attr]
    assert np.mean([one == other for one, other in zip(ours, gold, strict=True)]) > 0.9
    assert load_any_model(trained).task.names == names  # type: ignore[attr-defined]


def test_labels_reach_the_integer_model_and_its_export(
    trained: Path, named: DataSpec, configure: Any, tmp_path: Path
) -> None:
    inputs: dict[str, Any] = {"model": trained, "baseline": trained, "data": named}
    context = StageContext.alone("quantize", tmp_path / "q")
    quantize.run(configure("quantize", method="ptq"), context, inputs)
    inputs["model"] = context.output
    config = AutoConfig.from_pretrained(context.output)
    assert config.id2label == {0: "blame", 1: "neither", 2: "praise"}
    measured = StageContext.alone("measure", tmp_path / "m")
    measure.run(configure("measure"), measured, inputs)
    made = StageContext.alone("export", tmp_path / "e")
    export.run(configure("export", repeats=0), made, inputs | {"measure": measured.output})
    assert Card.read(made.output).labels == ("blame", "neither", "praise")
    text = (made.output / "README.md").read_text()
    assert "blame, neither, praise" in text
    assert "quala predict ." in text
    assert "quala answer" not in text
    card = made.output / "quala.json"
    facts = json.loads(card.read_text())
    del facts["labels"]  # as older versions wrote it
    card.write_text(json.dumps(facts))
    (made.output / "manifest.json").unlink()
    assert Card.read(made.output).labels == ()


def test_plain_transformers_finds_no_weights_in_an_integer_folder(integer: Path) -> None:
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        AutoModelForQuestionAnswering.from_pretrained(integer)


def test_another_number_of_labels_needs_a_new_head(
    trained: Path, sentences: DataSpec, configure: Any, tmp_path: Path
) -> None:
    inputs = {"model": trained, "data": sentences}
    context = StageContext.alone("finetune", tmp_path / "two")
    with pytest.raises(QualaError, match=r"model blame.*`model\.new_head=true`"):
        finetune.run(configure("finetune", max_steps=1), context, inputs)
    finetune.run(configure("finetune", max_steps=1, new_head=True), context, inputs)
    assert load_with_data(context.output, sentences).model.arch.outputs == 2


@pytest.mark.parametrize(("words", "expected"), [((), False), (("model.new_head=true",), True)])
def test_the_command_line_asks_for_a_new_head(words: tuple[str, ...], expected: bool) -> None:
    workflow = find_workflow("quala_minilm")
    assert typed(composed(workflow, words), workflow).stages["finetune"].new_head is expected


def test_a_stage_gives_its_data_the_labels_of_a_head_that_stays(
    trained: Path, named: DataSpec, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quala import checkpoint

    asked: list[Any] = []
    real = checkpoint.TaskData

    def spied(spec: DataSpec, tokenizer: Any, *, names: Any = None, **model: Any) -> Any:
        asked.append(names)
        return real(spec, tokenizer, **model)

    monkeypatch.setattr(checkpoint, "TaskData", spied)
    own = ("blame", "neither", "praise")
    load_with_data(trained, named)
    load_with_data(trained, named, head="or_new", labels=("a", "b", "c"))
    load_with_data(trained, named, head="new")
    load_with_data(tiny_checkpoint, named, head="or_new")
    load_with_data(tiny_checkpoint, named, head="or_new", labels=own)
    assert asked == [own, own, None, None, own]


def test_teacher_and_student_mean_the_same_by_their_outputs(
    trained: Path, named: DataSpec, tiny_checkpoint: Path, configure: Any, tmp_path: Path
) -> None:
    teacher = load_with_data(trained, named)
    task: Any = teacher.model.task
    other = replace(teacher, model=load_any_model(trained))
    check_teacher(teacher, other)
    other.model.task = replace(task, names=("praise", "neither", "blame"))
    with pytest.raises(QualaError, match="praise, the student's praise, neither, blame: soft"):
        check_teacher(teacher, other)
    own_data = TaskData(named, teacher.tokenizer, names=("praise", "neither", "blame"))
    with pytest.raises(QualaError, match="soft labels need the same order"):  # numbers as names
        check_teacher(teacher, replace(teacher, data=own_data))
    shorter = load_with_data(trained, named)
    shorter.tokenizer.add_tokens(["added"])
    with pytest.raises(QualaError, match="must have the same vocabulary"):
        check_teacher(teacher, shorter)
    context = StageContext.alone("distill", tmp_path)  # a student of its own, without a head
    inputs = {"teacher": trained, "model": tiny_checkpoint, "data": named}
    distill.run(configure("distill", max_steps=1, layers=None), context, inputs)
    assert load_any_model(context.output).task == task


def without_head(folder: Path) -> None:
    BertModel.from_pretrained(folder, add_pooling_layer=False).save_pretrained(folder)


def renamed_head(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = {key.replace("qa_outputs", "answer"): one for key, one in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def of_few_positions(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "bert.embeddings.position_embeddings.weight"
    tensors[name] = tensors[name][:100].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 100
    (folder / "config.json").write_text(json.dumps(config))


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "without head": (without_head, r"no head for question-answering.*qa_outputs\.weight"),
    "renamed head": (renamed_head, r"no head for question-answering.*qa_outputs\.weight"),
    "without tokenizer": (without_tokenizer, "has no tokenizer"),
    "few positions": (of_few_positions, "reads at most 100 tokens.*`max_length` 128"),
}


@pytest.fixture(params=DAMAGES)
def damaged(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path: Path
) -> tuple[Path, str]:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_checkpoint, folder)
    damage, sentence = DAMAGES[request.param]
    damage(folder)
    return folder, sentence


def test_it_serves_no_stage_that_takes_a_finished_model(
    damaged: tuple[Path, str], tiny_checkpoint: Path, configure: Any, spec: Any, tmp_path: Path
) -> None:
    folder, sentence = damaged
    whole = {"model": tiny_checkpoint, "teacher": tiny_checkpoint, "baseline": tiny_checkpoint}
    cases: list[tuple[Any, str, str, dict[str, Any]]] = [
        (distill, "distill", "teacher", {}),
        (length_adapt, "length_adapt", "model", {"seed": 5}),
        (length_adapt, "length_adapt", "teacher", {"teacher": 1.0}),
        (quantize, "quantize", "model", {"method": "ptq", "seed": 5}),
        (measure, "measure", "model", {}),
        (measure, "measure", "baseline", {}),
    ]
    for module, stage, key, changes in cases:
        inputs: dict[str, Any] = whole | {key: folder, "data": spec}
        if stage == "distill":
            del inputs["model"]
        context = StageContext.alone(stage, tmp_path / f"{stage} {key}")
        with pytest.raises(QualaError, match=sentence):
            module.run(configure(stage, **changes), context, inputs)
        assert not list(context.output.iterdir())


@pytest.mark.parametrize("stage", ["finetune", "distill", "length_adapt", "quantize"])
def test_it_is_refused_as_a_given_output_before_anything_runs(
    stage: str,
    damaged: tuple[Path, str],
    tiny_checkpoint: Path,
    migrated_database: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _ = damaged
    store = tmp_path / "mlruns"
    store.mkdir()
    shutil.copy(migrated_database, store / "mlflow.db")
    words = [
        "run", "quala_minilm", f"tracking.folder={store}", f"model.teacher={tiny_checkpoint}",
        f"stage.{stage}.given={folder}",
    ]  # fmt: skip
    if stage == "quantize":  # then the student is still made, from a teacher of two layers
        words.append("stage.distill.layers=2")
    with quiet_logging():
        assert main(words) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert "damaged" in said
    assert not (store / "work").exists() or not list((store / "work").glob("*/scratch"))


def test_finetune_takes_a_start_model_without_a_head_and_says_so(
    tiny_checkpoint: Path, configure: Any, spec: Any, tmp_path: Path, caplog: Any
) -> None:
    folder = tmp_path / "start"
    shutil.copytree(tiny_checkpoint, folder)
    without_head(folder)
    caplog.set_level("INFO", "quala")
    context = StageContext.alone("finetune", tmp_path)
    finetune.run(configure("finetune", max_steps=1), context, {"model": folder, "data": spec})
    assert "from seed 3: qa_outputs.bias, qa_outputs.weight" in caplog.text
    weights = load_file(context.output / "model.safetensors")
    assert not torch.equal(
        weights["qa_outputs.weight"],
        load_file(tiny_checkpoint / "model.safetensors")["qa_outputs.weight"],
    )


def test_its_output_says_what_was_read(trained: Path, named: DataSpec) -> None:
    found = json.loads((trained / "data.json").read_text())
    assert found["files"]["train"]
    assert set(found["slices"]) >= {"train", "selection"}
    assert set(found["labels"]["train"]) == {"blame", "neither", "praise"}
