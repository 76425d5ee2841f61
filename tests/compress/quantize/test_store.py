from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertForQuestionAnswering

from quala.compress.prune.structured import keep_units
from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.files import dequantized_state_dict, load_integer, save_integer
from quala.compress.quantize.integer import to_integer
from quala.compress.quantize.transform import calibrate, quantize
from quala.compress.shrink import FactoriseConfig, factorise
from quala.errors import QualaError

Inputs = dict[str, Tensor]


@pytest.fixture
def integer(bert: BertForQuestionAnswering, inputs: Inputs) -> BertForQuestionAnswering:
    quantize(bert, QuantizeConfig())
    calibrate(bert, lambda: _forward(bert, inputs))
    made = to_integer(bert)
    assert isinstance(made, BertForQuestionAnswering)
    return made


def _forward(model: BertForQuestionAnswering, inputs: Inputs) -> None:
    model(**inputs)


@pytest.fixture
def folder(integer: BertForQuestionAnswering, tmp_path: Path) -> Path:
    save_integer(integer, tmp_path / "model", {"task": "question-answering"})
    return tmp_path / "model"


def test_a_loaded_model_is_the_saved_one_to_the_bit(
    integer: BertForQuestionAnswering, folder: Path
) -> None:
    saved, loaded = integer.state_dict(), load_integer(folder).state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)


def test_a_pruned_and_factorised_model_is_loaded_to_the_bit(
    bert: BertForQuestionAnswering, inputs: Inputs, tmp_path: Path
) -> None:
    layers = bert.config.num_hidden_layers
    heads = [[0]] + [list(range(bert.config.num_attention_heads))] * (layers - 1)
    small = factorise(
        keep_units(bert, heads=heads), FactoriseConfig(linear_ratio=2.0, embedding_rank=4)
    )
    quantize(small, QuantizeConfig())
    calibrate(small, lambda: _forward(small, inputs))
    integer = to_integer(small)
    save_integer(integer, tmp_path / "model", {"task": "question-answering"})
    loaded = load_integer(tmp_path / "model")
    saved = integer.state_dict()
    assert any(name.endswith("query.down.weight") for name in saved)
    assert loaded.state_dict().keys() == saved.keys()
    assert all(torch.equal(saved[name], value) for name, value in loaded.state_dict().items())


def test_a_loaded_model_answers_alike(
    integer: BertForQuestionAnswering, folder: Path, inputs: Inputs
) -> None:
    loaded = load_integer(folder)
    expected = integer(**inputs).start_logits
    assert torch.allclose(loaded(**inputs).start_logits, expected, atol=1e-3)


def test_loading_draws_no_random_numbers(folder: Path) -> None:
    before = torch.random.get_rng_state()
    load_integer(folder)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_folder_holds_three_plain_files(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "quala.json"}


def test_the_card_keeps_the_metadata(folder: Path) -> None:
    card = json.loads((folder / "quala.json").read_text())
    assert (card["task"], card["precision"]) == ("question-answering", "int8")


def test_the_file_is_dominated_by_one_byte_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    weights = [t for name, t in tensors.items() if name.endswith("dense.weight")]
    assert weights
    assert all(weight.dtype == torch.int8 for weight in weights)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "quala.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(QualaError, match=name):
        load_integer(folder)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["qa_outputs.bias"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(QualaError, match=r"qa_outputs\.bias"):
        load_integer(folder)


def test_a_foreign_tensor_is_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "stranger": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(QualaError, match="stranger"):
        load_integer(folder)


@pytest.mark.parametrize("value", [torch.zeros(3), torch.zeros(2, dtype=torch.float16)])
def test_a_tensor_of_wrong_shape_or_type_is_named(folder: Path, value: Tensor) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "qa_outputs.bias": value}, folder / "model.safetensors")
    with pytest.raises(QualaError, match=r"qa_outputs\.bias"):
        load_integer(folder)


def test_bytes_that_are_no_tensors_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(QualaError, match="safetensors"):
        load_integer(folder)


@pytest.mark.parametrize(
    "card",
    [
        "{",
        "[]",
        '{"format": 1, "precision": "fp32"}',
        '{"format": 9, "precision": "int8", "quantization": {"linear": {}, "embedding": []}}',
        '{"format": 1, "precision": "int8", "quantization": {"linear": []}}',
        '{"format": 1, "precision": "int8", "quantization": {"linear": {"bert": 255}, '
        '"embedding": []}}',
        '{"format": 1, "precision": "int8", "quantization": {"linear": {"x": 1}, '
        '"embedding": []}}',
    ],
)
def test_a_wrong_card_is_refused(folder: Path, card: str) -> None:
    (folder / "quala.json").write_text(card)
    with pytest.raises(QualaError):
        load_integer(folder)


def test_a_class_that_is_no_encoder_of_ours_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BertForMaskedLM"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(QualaError, match="BertForMaskedLM"):
        load_integer(folder)


def test_a_float_model_is_not_saved(bert: BertForQuestionAnswering, tmp_path: Path) -> None:
    with pytest.raises(QualaError, match="to_integer"):
        save_integer(bert, tmp_path)


def test_dequantized_weights_load_into_the_plain_model(
    integer: BertForQuestionAnswering, inputs: Inputs
) -> None:
    plain = BertForQuestionAnswering(integer.config).eval()
    plain.load_state_dict(dequantized_state_dict(integer))
    expected = integer(**inputs).start_logits
    assert torch.allclose(plain(**inputs).start_logits, expected, atol=0.02)


def test_dequantized_weights_are_those_of_the_integers(integer: BertForQuestionAnswering) -> None:
    state = dequantized_state_dict(integer)
    name = "bert.encoder.layer.0.attention.self.query"
    stored = integer.state_dict()
    expected = stored[f"{name}.weight"].float() * stored[f"{name}.weight_scale"][:, None]
    assert torch.equal(state[f"{name}.weight"], expected)
