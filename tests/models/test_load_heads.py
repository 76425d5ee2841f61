"""Checkpoints that lack something: a head, tensors, a tokenizer, positions, labels."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from toys import FAMILIES, RESIZED
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    BertForMultipleChoice,
    BertTokenizer,
    pipeline,
)

from quala.checkpoint import load_any_model, load_data
from quala.data.spec import DataSpec
from quala.data.task import Classes, Span, Task, Value
from quala.errors import QualaError
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.labels import stored_labels
from quala.models.load import (
    check_inputs,
    label_names,
    load_model,
    load_tokenizer,
    save_model,
    weights_file,
)

BuildHf = Callable[..., Any]
TASKS: list[Task] = [Span(), Classes(3)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tokenizer(words: int = 45) -> Any:
    """A tokenizer of the special tokens and some words: with 45, as many as toys have rows."""
    known = [*SPECIAL, *(f"w{number}" for number in range(words))]
    return BertTokenizer(vocab={word: number for number, word in enumerate(known)})


def change(folder: Path, edit: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Rewrite the tensors of a saved model."""
    file = folder / "model.safetensors"
    save_file(edit(load_file(file)), file, {"format": "pt"})


def configure(folder: Path, **values: Any) -> None:
    """Set values of a config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.fixture(params=TASKS, ids=lambda task: task.kind)
def task(request: pytest.FixtureRequest) -> Task:
    found: Task = request.param
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_checkpoint_loads(
    family: str, task: Task, build_hf: BuildHf, tmp_path: Path
) -> None:
    hf = build_hf(family, task.kind).float()
    hf.save_pretrained(tmp_path)
    if family != "modernbert":  # older versions saved them
        places = f"{hf.base_model_prefix}.embeddings.position_ids"
        change(tmp_path, lambda file: file | {places: torch.arange(34)[None]})
    loaded = load_model(tmp_path, task=task, seed=1).hf.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in hf.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_head_is_refused_and_named(
    family: str, task: Task, build_hf: BuildHf, tmp_path: Path
) -> None:
    hf = build_hf(family, task.kind)
    hf.base_model.save_pretrained(tmp_path)
    with pytest.raises(QualaError, match=rf"no head for {task.kind}.*would be random") as caught:
        load_model(tmp_path, task=task)
    assert "\n" not in str(caught.value)
    named = "qa_outputs.weight" if task.per_token and family != "modernbert" else "classifier."
    assert named in str(caught.value)


def test_a_renamed_head_is_refused_and_a_training_says_what_it_leaves_out(
    task: Task, build_hf: BuildHf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build_hf("bert", task.kind).save_pretrained(tmp_path)
    name = "qa_outputs" if task.per_token else "classifier"
    change(tmp_path, lambda file: {key.replace(name, "own_head"): file[key] for key in file})
    with pytest.raises(QualaError, match=f"{name}.bias, {name}.weight would be random"):
        load_model(tmp_path, task=task)
    caplog.set_level(logging.INFO, "quala")
    load_model(tmp_path, task=task, head="or_new", seed=4)
    (record,) = caplog.records
    assert f"from seed 4: {name}.bias, {name}.weight." in record.getMessage()
    assert "own_head.bias, own_head.weight" in record.getMessage()


def test_half_a_head_is_refused(task: Task, build_hf: BuildHf, tmp_path: Path) -> None:
    build_hf("roberta", task.kind).save_pretrained(tmp_path)
    name = "qa_outputs.bias" if task.per_token else "classifier.dense.bias"
    change(tmp_path, lambda file: {key: file[key] for key in file if key != name})
    with pytest.raises(QualaError, match=f"{name} would be random"):
        load_model(tmp_path, task=task)


def test_the_head_of_another_task_is_not_taken(build_hf: BuildHf, tmp_path: Path) -> None:
    build_hf("bert", "classification").save_pretrained(tmp_path)
    with pytest.raises(QualaError, match=r"BertForSequenceClassification, has no head for quest"):
        load_model(tmp_path, task=Span())
    assert load_model(tmp_path, task=Span(), head="or_new").task == Span()


def test_tensors_of_another_task_are_no_head_though_their_names_fit(
    build_hf: BuildHf, tmp_path: Path
) -> None:
    old = BertForMultipleChoice(build_hf("bert", "regression").config)
    old.save_pretrained(tmp_path)
    with pytest.raises(QualaError, match="a BertForMultipleChoice, has no head for regression"):
        load_model(tmp_path, task=Value())
    new: Any = load_model(tmp_path, task=Value(), head="or_new", seed=1).hf
    assert not torch.equal(new.classifier.weight, old.classifier.weight)
    assert torch.equal(new.bert.pooler.dense.weight, old.bert.pooler.dense.weight)


def test_several_labels_for_a_text_are_no_classes(build_hf: BuildHf, tmp_path: Path) -> None:
    extra = {"problem_type": "multi_label_classification"}
    build_hf("bert", "classification", **extra).save_pretrained(tmp_path)
    with pytest.raises(QualaError, match="a classifier with several labels for a text, has no h"):
        load_model(tmp_path, task=Classes(3))


@pytest.mark.parametrize("outputs", [3, 5])
def test_a_new_head_is_drawn_on_request_only(
    outputs: int, build_hf: BuildHf, tmp_path: Path
) -> None:
    old = build_hf("bert", "classification").float()
    old.save_pretrained(tmp_path)
    if outputs != 3:
        with pytest.raises(QualaError, match=r"with 5 outputs.*`model.new_head=true`"):
            load_model(tmp_path, task=Classes(outputs), head="or_new")
    drawn = [
        load_model(tmp_path, task=Classes(outputs), head="new", seed=seed).hf.state_dict()
        for seed in (1, 1, 2)
    ]
    weights = [state["classifier.weight"] for state in drawn]
    assert weights[0].shape == (outputs, 16)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0][:3], old.classifier.weight)
    for name, value in old.state_dict().items():
        assert name.startswith("classifier") or torch.equal(value, drawn[0][name])


@pytest.mark.parametrize("prefix", ["module.", "model.", "encoder.backbone."])
def test_a_prefix_is_refused(prefix: str, build_hf: BuildHf, tmp_path: Path) -> None:
    build_hf("bert").save_pretrained(tmp_path)
    change(tmp_path, lambda file: {prefix + key: file[key] for key in file})
    with pytest.raises(QualaError, match=rf"lack \d+ tensors.*not used: {prefix}bert") as caught:
        load_model(tmp_path, task=Span(), head="new")
    assert ("DistributedDataParallel" in str(caught.value)) == (prefix == "module.")


@pytest.mark.parametrize("family", RESIZED)  # all layers of ALBERT are in the file once
def test_tensors_of_the_encoder_that_nothing_takes_are_refused(
    family: str, build_hf: BuildHf, tmp_path: Path
) -> None:
    build_hf(family).save_pretrained(tmp_path)
    key = "n_layers" if family == "distilbert" else "num_hidden_layers"
    kinds = {"layer_types": ["full_attention"] * 2} if family == "modernbert" else {}
    configure(tmp_path, **{key: 2}, **kinds)
    with pytest.raises(
        QualaError, match=r"have \d+ tensors that its config.json has no place for"
    ):
        load_model(tmp_path, task=Span())


def test_an_embedding_of_another_size_is_named(build_hf: BuildHf, tmp_path: Path) -> None:
    build_hf("bert").save_pretrained(tmp_path)
    configure(tmp_path, vocab_size=52)
    with pytest.raises(QualaError, match=r"word_embeddings.weight` in .* is .*50, 16.*52, 16"):
        load_model(tmp_path, task=Span())


def test_pickled_weights_are_converted_as_the_sentence_says(
    build_hf: BuildHf, tmp_path: Path
) -> None:
    hf = build_hf("bert").float()
    hf.save_pretrained(tmp_path)
    torch.save(hf.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(QualaError, match="Only safetensors are read") as caught:
        load_model(tmp_path, task=Span())
    code = str(caught.value).partition('python -c "')[2].rstrip('".')
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    loaded = load_model(tmp_path, task=Span()).hf.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in hf.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_without_tokenizer_is_refused(
    family: str, build_hf: BuildHf, tmp_path: Path
) -> None:
    build_hf(family).save_pretrained(tmp_path)
    with pytest.raises(QualaError, match="has no tokenizer, or one of special tokens only"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_and_its_embedding_have_to_agree(
    build_hf: BuildHf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build_hf("bert").save_pretrained(tmp_path)
    configure(tmp_path, vocab_size=500)
    for words in (495, 495 - 128):
        check_inputs(tmp_path, tokenizer(words), 34)
    assert not caplog.records
    check_inputs(tmp_path, tokenizer(494 - 128), 34)
    assert "has 371 tokens, the embedding 500 rows: is it" in caplog.records[0].getMessage()
    with pytest.raises(QualaError, match="has 15 tokens, the embedding 500 rows: it is the token"):
        check_inputs(tmp_path, tokenizer(10), 34)
    more = tokenizer(495)
    more.add_tokens(["added"])
    with pytest.raises(QualaError, match=r"too few for `added` with the id 500.*resize"):
        check_inputs(tmp_path, more, 34)


@pytest.mark.parametrize(("family", "most"), [("bert", 34), ("roberta", 32)])
def test_positions_have_to_suffice(
    family: str, most: int, build_hf: BuildHf, tmp_path: Path
) -> None:
    build_hf(family).save_pretrained(tmp_path)
    check_inputs(tmp_path, tokenizer(), most)
    with pytest.raises(QualaError, match=f"at most {most} tokens.*got `max_length` {most + 1}"):
        check_inputs(tmp_path, tokenizer(), most + 1)


NAMED = {"id2label": {0: "no", 1: "maybe", 2: "yes"}, "label2id": {"no": 0, "maybe": 1, "yes": 2}}


def saved(hf: Any, task: Task, folder: Path) -> dict[str, Any]:
    model = LengthAdaptiveModel(hf.float(), task=task, significance="cls")
    save_model(model, tokenizer(), folder, metadata={})
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def test_labels_are_written_and_read(build_hf: BuildHf, tmp_path: Path) -> None:
    task = Classes(3, names=("good", "bad", "odd"))
    config = saved(build_hf("bert", "classification", **NAMED), task, tmp_path)
    assert config["id2label"] == {"0": "good", "1": "bad", "2": "odd"}
    assert config["label2id"] == {"good": 0, "bad": 1, "odd": 2}
    assert config["problem_type"] == "single_label_classification"
    assert json.loads((tmp_path / "quala.json").read_text())["labels"] == ["good", "bad", "odd"]
    assert stored_labels(tmp_path) == task.names
    assert load_any_model(tmp_path).task == task


def test_outputs_without_names_do_not_keep_those_of_the_start_model(
    build_hf: BuildHf, tmp_path: Path
) -> None:
    extra = {"id2label": {0: "sad"}, "label2id": {"sad": 0}}
    hf = build_hf("bert", "regression", **extra).float()
    config = saved(hf, Value(), tmp_path)
    assert (config["id2label"], config["problem_type"]) == ({"0": "LABEL_0"}, "regression")
    assert "labels" not in json.loads((tmp_path / "quala.json").read_text())
    assert load_any_model(tmp_path).task == Value()
    (found,) = pipeline("text-classification", model=str(tmp_path), device="cpu")("w1 w7")
    value = hf(**tokenizer()("w1 w7", return_tensors="pt")).logits.item()
    assert found["score"] == pytest.approx(value, abs=1e-5)  # the value itself, no probability


@pytest.mark.parametrize(
    ("extra", "expected"),
    [({}, Classes(3)), (NAMED, Classes(3, names=("no", "maybe", "yes")))],
)
def test_the_task_of_a_checkpoint_of_other_tools_is_its_configs(
    extra: dict[str, Any], expected: Task, build_hf: BuildHf, tmp_path: Path
) -> None:
    build_hf("bert", "classification", **extra).save_pretrained(tmp_path)
    assert load_any_model(tmp_path).task == expected


@pytest.mark.parametrize("architectures", [None, ["ReviewClassifier"]])
def test_a_classifier_of_an_unknown_architecture_keeps_its_names(
    architectures: list[str] | None, build_hf: BuildHf, tmp_path: Path
) -> None:
    build_hf("bert", "classification", **NAMED).save_pretrained(tmp_path)
    configure(tmp_path, architectures=architectures)
    assert stored_labels(tmp_path) == ("no", "maybe", "yes")
    configure(tmp_path, architectures=["BertForTokenClassification"])
    assert stored_labels(tmp_path) == ("no", "maybe", "yes")
    configure(tmp_path, architectures=["BertForMultipleChoice"])
    assert stored_labels(tmp_path) is None


@pytest.mark.parametrize(
    ("labels", "listed", "said"),
    [
        (("odd", "good", "bad"), (), True),
        (("odd", "good", "bad"), ("good", "bad", "odd"), False),
        (("2", "0", "1"), (), False),
        (("3", "1", "2"), (), True),
    ],
)
def test_the_order_of_labels_that_a_classifier_does_not_name_is_said(
    labels: tuple[str, ...],
    listed: tuple[str, ...],
    said: bool,
    build_hf: BuildHf,
    tmp_path: Path,
) -> None:
    build_hf("bert", "classification").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    rows = (f"w{row} w1,{labels[row % 3]}\n" for row in range(30))
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(rows))
    spec = DataSpec(task="glue", path=str(tmp_path / "rows.csv"), max_length=16, labels=listed)
    order = ", ".join(listed or sorted(labels))
    for head, noted in (("own", said), ("new", False)):
        data = load_data(tmp_path, spec, head=head)[1]  # type: ignore[arg-type]
        assert ", ".join(label_names(data.task)) == order
        note = f"The model names no outputs: taken as {order} (`data.labels`)."
        assert (note in data.notes) is noted


def test_a_checkpoint_with_one_output_is_a_regression(build_hf: BuildHf, tmp_path: Path) -> None:
    build_hf("roberta", "regression").save_pretrained(tmp_path)
    assert load_any_model(tmp_path).task == Value()


def test_an_old_quala_json_names_no_labels(build_hf: BuildHf, tmp_path: Path) -> None:
    saved(build_hf("bert", "classification"), Classes(3), tmp_path)
    configure(tmp_path, **NAMED)  # those of its start model
    assert stored_labels(tmp_path) is None
    assert load_any_model(tmp_path).task == Classes(3)


@pytest.mark.parametrize("labels", [["a", "a", "b"], [0, 1, 2], ["a", "b"], "abc"])
def test_damaged_labels_are_refused(labels: Any, build_hf: BuildHf, tmp_path: Path) -> None:
    saved(build_hf("bert", "classification"), Classes(3), tmp_path)
    file = tmp_path / "quala.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"labels": labels}))
    with pytest.raises(QualaError, match="must be another text for each output, got"):
        load_any_model(tmp_path)


def test_labels_in_another_order_are_refused(build_hf: BuildHf, tmp_path: Path) -> None:
    saved(build_hf("bert", "classification"), Classes(3, names=("b", "a", "c")), tmp_path)
    with pytest.raises(QualaError, match="are b, a, c, the data's labels are a, b, c"):
        load_any_model(tmp_path, task=Classes(3, names=("a", "b", "c")))
    places = load_any_model(tmp_path, task=Classes(3, names=("0", "1", "2")))
    assert places.arch.outputs == 3


def test_plain_transformers_does_not_open_shapes_that_it_cannot_know(
    build_hf: BuildHf, tmp_path: Path
) -> None:
    from quala.compress.shrink import factorize

    hf = build_hf("bert").float()
    save_model(LengthAdaptiveModel(factorize(hf, 2.0)), tokenizer(), tmp_path, metadata={})
    assert weights_file(tmp_path).name == "quala.safetensors"
    for auto in (AutoModelForQuestionAnswering, AutoModelForSequenceClassification):
        with pytest.raises(OSError, match=r"no file named model\.safetensors"):
            auto.from_pretrained(tmp_path)
    assert load_any_model(tmp_path).arch.embedding_rank
    save_model(LengthAdaptiveModel(hf), tokenizer(), tmp_path, metadata={})
    assert weights_file(tmp_path).name == "model.safetensors"
    AutoModelForQuestionAnswering.from_pretrained(tmp_path)
