"""Folders of integer models: packed codes, and everything back to the bit."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertForQuestionAnswering

from quala.compress.prune.structured import keep_units
from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.files import load_integer, pack, packed_bytes, save_integer, unpack
from quala.compress.quantize.integer import (
    bits_of,
    integer_layers,
    precision_of,
    to_integer,
    weight_counts,
)
from quala.compress.quantize.transform import calibrate, quantize
from quala.compress.shrink import factorize
from quala.errors import QualaError


def _codes(bits: int, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if bits == 1:
        return (torch.randint(0, 2, shape, generator=generator) * 2 - 1).to(torch.int8)
    top = 2 ** (bits - 1) - 1
    return torch.randint(-top, top + 1, shape, generator=generator).to(torch.int8)


def _slow(codes: Tensor, bits: int) -> list[int]:
    """Return the bytes by one long binary number, its lowest bits first."""
    number = 0
    for place, code in enumerate(codes.flatten().tolist()):
        raised = (code + 1) // 2 if bits == 1 else code + 2 ** (bits - 1) - 1
        number |= raised << place * bits
    return list(number.to_bytes((codes.numel() * bits + 7) // 8, "little"))


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_of_any_shape_come_back(bits: int) -> None:
    draw = random.Random(bits)
    for seed in range(40):
        shape = [draw.randint(1, 9) for _ in range(draw.randint(1, 3))]
        codes = _codes(bits, *shape, seed=seed)
        packed = pack(codes, bits)
        assert packed.dtype == torch.uint8
        assert packed.numel() == -(-codes.numel() * bits // 8) == packed_bytes(codes.numel(), bits)
        assert torch.equal(unpack(packed, bits, shape), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_stream_is_one_long_binary_number(bits: int) -> None:
    codes = _codes(bits, 5, 7)
    assert pack(codes, bits).tolist() == _slow(codes, bits)


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_ends_of_the_grid_come_back(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    codes = torch.tensor([-top, 0, top], dtype=torch.int8)
    assert torch.equal(unpack(pack(codes, bits), bits, (3,)), codes)


@pytest.mark.parametrize(("bits", "code"), [(1, 0), (1, 2), (2, 2), (4, -8), (8, -128)])
def test_a_code_that_does_not_fit_is_named(bits: int, code: int) -> None:
    with pytest.raises(QualaError, match=f"code {code};"):
        pack(torch.tensor([1, code, -1], dtype=torch.int8), bits)


@pytest.mark.parametrize("bits", [-1, 9])
def test_another_width_is_refused(bits: int) -> None:
    with pytest.raises(QualaError, match="0 to 8"):
        pack(torch.ones(3, dtype=torch.int8), bits)
    with pytest.raises(QualaError, match="0 to 8"):
        unpack(torch.ones(3, dtype=torch.uint8), bits, (3,))


@pytest.mark.parametrize(
    "packed", [torch.zeros(2, dtype=torch.uint8), torch.zeros(3), torch.zeros(1, 3).byte()]
)
def test_bytes_of_another_number_or_type_are_refused(packed: Tensor) -> None:
    with pytest.raises(QualaError, match="10 codes of 2 bits are 3 bytes"):
        unpack(packed, 2, (2, 5))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_bytes_beyond_the_grid_are_refused(bits: int) -> None:
    with pytest.raises(QualaError, match="the largest is"):
        unpack(torch.full((bits,), 255, dtype=torch.uint8), bits, (8,))


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


def test_a_pruned_and_factorized_model_is_loaded_to_the_bit(
    bert: BertForQuestionAnswering, inputs: Inputs, tmp_path: Path
) -> None:
    layers = bert.config.num_hidden_layers
    heads = [[0]] + [list(range(bert.config.num_attention_heads))] * (layers - 1)
    small = factorize(keep_units(bert, heads=heads), 2.0)
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
    assert names == {"config.json", "quala.safetensors", "quala.json"}


def test_the_card_keeps_the_metadata(folder: Path) -> None:
    card = json.loads((folder / "quala.json").read_text())
    assert (card["task"], card["precision"]) == ("question-answering", "int8")


def test_the_file_is_dominated_by_one_byte_weights(folder: Path) -> None:
    tensors = load_file(folder / "quala.safetensors")
    weights = [t for name, t in tensors.items() if name.endswith("dense.weight")]
    assert weights
    assert all(weight.dtype == torch.int8 for weight in weights)


@pytest.mark.parametrize("name", ["config.json", "quala.safetensors", "quala.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(QualaError, match=name):
        load_integer(folder)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    tensors = load_file(folder / "quala.safetensors")
    del tensors["qa_outputs.bias"]
    save_file(tensors, folder / "quala.safetensors")
    with pytest.raises(QualaError, match=r"qa_outputs\.bias"):
        load_integer(folder)


def test_a_foreign_tensor_is_named(folder: Path) -> None:
    tensors = load_file(folder / "quala.safetensors")
    save_file({**tensors, "stranger": torch.zeros(1)}, folder / "quala.safetensors")
    with pytest.raises(QualaError, match="stranger"):
        load_integer(folder)


@pytest.mark.parametrize("value", [torch.zeros(3), torch.zeros(2, dtype=torch.float16)])
def test_a_tensor_of_wrong_shape_or_type_is_named(folder: Path, value: Tensor) -> None:
    tensors = load_file(folder / "quala.safetensors")
    save_file({**tensors, "qa_outputs.bias": value}, folder / "quala.safetensors")
    with pytest.raises(QualaError, match=r"qa_outputs\.bias"):
        load_integer(folder)


def test_bytes_that_are_no_tensors_are_refused(folder: Path) -> None:
    (folder / "quala.safetensors").write_bytes(b"not tensors at all")
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
    state = {name: value for name, value in integer.state_dict().items() if "scale" not in name}
    state = {name: value for name, value in state.items() if "zero_point" not in name}
    weights = integer_layers(integer)
    state |= {f"{name}.weight": layer.float_weight() for name, layer in weights.items()}
    plain.load_state_dict(state)
    expected = integer(**inputs).start_logits
    assert torch.allclose(plain(**inputs).start_logits, expected, atol=0.02)


BINARY_WEIGHTS = {"weight_quantizer": "bwn", "weight_bits": 1}


@pytest.mark.parametrize(
    ("options", "precision", "bits"),
    [
        ({}, "int8", "8-8-8"),
        ({"quantize_embeddings": False}, "int8", "8-32-8"),
        ({"weight_bits": 4, "embedding_bits": 2, "activation_bits": 7}, "w4e2a7", "4-2-7"),
        ({"embedding_bits": 4}, "w8e4a8", "8-4-8"),
        ({"activation_bits": 4}, "w8e8a4", "8-8-4"),
        ({**BINARY_WEIGHTS, "quantize_embeddings": False}, "w1e32a8", "1-32-8"),
    ],
)
def test_the_word_says_the_bits(
    bert: BertForQuestionAnswering,
    inputs: dict[str, Tensor],
    options: dict[str, object],
    precision: str,
    bits: str,
) -> None:
    assert (precision_of(bert), bits_of(bert)) == ("fp32", "32-32-32")
    quantize(bert, QuantizeConfig(**options))  # type: ignore[arg-type]
    calibrate(bert, lambda: bert(**inputs))
    made = to_integer(bert)
    assert (precision_of(made), bits_of(made)) == (precision, bits)


def test_several_widths_are_joined(
    bert: BertForQuestionAnswering, inputs: dict[str, Tensor]
) -> None:
    quantize(bert, QuantizeConfig(weight_bits=4))
    calibrate(bert, lambda: bert(**inputs))
    made = to_integer(bert)
    made.get_submodule("bert.encoder.layer.0.output.dense").bits = 2  # type: ignore[assignment]
    assert precision_of(made) == "w2-4e8a8"
    assert bits_of(made) == "2/4-8-8"


def test_weights_are_counted_in_any_precision(
    bert: BertForQuestionAnswering, inputs: dict[str, Tensor]
) -> None:
    dense = bert.bert.encoder.layer[0].output.dense
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.copy_(torch.where(parameter.abs() < 1e-3, 1e-3, parameter))
        dense.weight[:2] = 0  # two of its rows are pruned
    total = sum(weight.numel() for weight in bert.parameters())
    pruned = 2 * dense.in_features
    assert weight_counts(bert) == (total, total - pruned)
    quantize(bert, QuantizeConfig(weight_quantizer="bwn", weight_bits=1))
    calibrate(bert, lambda: bert(**inputs))
    found, nonzero = weight_counts(to_integer(bert))
    assert found == total
    assert 0 < nonzero <= total


def test_codes_of_zero_do_not_count(
    bert: BertForQuestionAnswering, inputs: dict[str, Tensor]
) -> None:
    quantize(bert, QuantizeConfig(weight_quantizer="twn", weight_bits=2))
    calibrate(bert, lambda: bert(**inputs))
    made = to_integer(bert)
    layers = [module for module in made.modules() if hasattr(module, "float_weight")]
    floats = sum(int((weight != 0).sum()) for weight in made.parameters())
    biases = sum(int((layer.bias != 0).sum()) for layer in layers if hasattr(layer, "bias"))
    weights = sum(int((layer.float_weight() != 0).sum()) for layer in layers)
    assert weight_counts(made)[1] == floats + biases + weights
