"""Saved models of fewer than eight bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertForQuestionAnswering, PreTrainedModel

from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.files import load_integer, save_integer
from quala.compress.quantize.integer import IntegerLinear, integer_layers, to_integer
from quala.compress.quantize.split import split_ternary
from quala.compress.quantize.transform import calibrate, quantize
from quala.errors import QualaError

Inputs = dict[str, Tensor]
Options = dict[str, Any]
LSQ: list[Options] = [
    {
        "weight_quantizer": "lsq",
        "weight_bits": bits,
        "embedding_quantizer": "lsq",
        "embedding_bits": bits,
        "activation_range": "lsq",
    }
    for bits in range(2, 9)
]
BINARY: Options = {"weight_quantizer": "bwn", "weight_bits": 1}
BINARY_ROWS: Options = BINARY | {"embedding_quantizer": "bwn", "embedding_bits": 1}
TERNARY: Options = {"weight_quantizer": "twn", "weight_bits": 2}
GROUPS: Options = {"weight_granularity": "group", "weight_group": 8}


def _integer(model: BertForQuestionAnswering, inputs: Inputs, options: Options) -> PreTrainedModel:
    quantize(model, QuantizeConfig(**options))
    calibrate(model, lambda: _forward(model, inputs))
    made = to_integer(model)
    assert isinstance(made, PreTrainedModel)
    return made


def _forward(model: BertForQuestionAnswering, inputs: Inputs) -> None:
    model(**inputs)


def _logits(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    for module in model.modules():
        if isinstance(module, IntegerLinear):
            module._integer = False  # oneDNN's sums may depend on where memory lies
    found = model(**inputs).start_logits
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize(
    "options",
    [
        *LSQ,
        {"weight_bits": 3, "embedding_bits": 5},
        BINARY,
        BINARY_ROWS,
        BINARY_ROWS | {"weight_granularity": "tensor", "embedding_granularity": "tensor"},
        TERNARY,
        TERNARY | GROUPS,
        BINARY_ROWS | GROUPS | {"embedding_granularity": "group"},
        {"weight_quantizer": "lat", "weight_bits": 2},
    ],
    ids=lambda options: "-".join(f"{value}" for value in options.values()),
)
def test_a_saved_model_loads_back_to_the_bit(
    bert: BertForQuestionAnswering, inputs: Inputs, tmp_path: Path, options: Options
) -> None:
    made = _integer(bert, inputs, options)
    save_integer(made, tmp_path)
    loaded = load_integer(tmp_path)
    saved, read = made.state_dict(), loaded.state_dict()
    assert saved.keys() == read.keys()
    assert all(torch.equal(saved[name], read[name]) for name in saved)
    assert torch.equal(_logits(loaded, inputs), _logits(made, inputs))
    assert torch.equal(_logits(made, inputs), bert(**inputs).start_logits)


def test_a_split_model_loads_back_to_the_bit(
    bert: BertForQuestionAnswering, inputs: Inputs, tmp_path: Path
) -> None:
    rows: Options = {"embedding_quantizer": "twn", "embedding_bits": 2}
    quantize(bert, QuantizeConfig(**TERNARY | rows))
    calibrate(bert, lambda: _forward(bert, inputs))
    split_ternary(bert)
    made = to_integer(bert)
    assert isinstance(made, PreTrainedModel)
    save_integer(made, tmp_path)
    assert torch.equal(_logits(load_integer(tmp_path), inputs), _logits(made, inputs))


def test_split_weights_add_up_to_the_ternary_ones(
    bert: BertForQuestionAnswering, inputs: Inputs
) -> None:
    made = _integer(bert, inputs, TERNARY)
    expected = {name: one.float_weight() for name, one in integer_layers(made).items()}
    names = split_ternary(bert)
    halves = {n: one.float_weight() for n, one in integer_layers(to_integer(bert)).items()}
    assert names
    for name in names:
        total = halves[f"{name}.first"] + halves[f"{name}.second"]
        assert torch.allclose(total, expected[name], atol=1e-6)


@pytest.mark.parametrize(
    ("bits", "options"),
    [
        (1, BINARY_ROWS | {"weight_granularity": "tensor", "embedding_granularity": "tensor"}),
        (2, TERNARY | {"embedding_quantizer": "twn", "embedding_bits": 2}),
        (3, LSQ[1]),
        (4, LSQ[2]),
        (8, LSQ[6]),
    ],
)
def test_the_file_is_as_large_as_its_bits(tmp_path: Path, bits: int, options: Options) -> None:
    config = BertConfig(
        vocab_size=1000,
        hidden_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=1024,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    ids = torch.arange(40).reshape(2, 20)
    model = _integer(BertForQuestionAnswering(config).eval(), {"input_ids": ids}, options)
    save_integer(model, tmp_path)
    layers = integer_layers(model)
    codes = sum(layer.weight.numel() for layer in layers.values())
    assert codes > 1_800_000
    coded = {f"{name}.weight" for name in layers}
    others = {k: v for k, v in load_file(tmp_path / "quala.safetensors").items() if k not in coded}
    rest = sum(value.numel() * value.element_size() for value in others.values())
    size = (tmp_path / "quala.safetensors").stat().st_size
    assert size - rest == pytest.approx(codes * bits / 8, rel=0.04)


def test_a_two_bit_linear_takes_a_quarter_of_a_byte_per_weight(
    bert: BertForQuestionAnswering, inputs: Inputs, tmp_path: Path
) -> None:
    save_integer(_integer(bert, inputs, TERNARY), tmp_path)
    weight = load_file(tmp_path / "quala.safetensors")["bert.encoder.layer.0.output.dense.weight"]
    assert (weight.dtype, weight.shape) == (torch.uint8, (16 * 32 // 4,))


def test_one_scale_of_a_tensor_is_saved_once(
    bert: BertForQuestionAnswering, inputs: Inputs, tmp_path: Path
) -> None:
    save_integer(_integer(bert, inputs, BINARY | {"weight_granularity": "tensor"}), tmp_path)
    tensors = load_file(tmp_path / "quala.safetensors")
    assert tensors["bert.encoder.layer.0.output.dense.weight_scale"].shape == (1,)


def test_a_folder_from_before_packing_still_loads(
    bert: BertForQuestionAnswering, inputs: Inputs, tmp_path: Path
) -> None:
    made = _integer(bert, inputs, {})
    save_integer(made, tmp_path)
    card = json.loads((tmp_path / "quala.json").read_text())
    for new in ("bits", "groups", "split", "outliers"):
        del card["quantization"][new]
    (tmp_path / "quala.json").write_text(json.dumps(card))
    tensors = {name: value.contiguous() for name, value in made.state_dict().items()}
    save_file(tensors, tmp_path / "quala.safetensors")  # int8 as it is in memory
    assert torch.equal(_logits(load_integer(tmp_path), inputs), _logits(made, inputs))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bits", {"bert.embeddings.word_embeddings": 9}, "bits outside"),
        ("bits", [], "must be an object"),
        ("groups", {"bert.embeddings.word_embeddings": 0}, "one group"),
        ("groups", {"bert.embeddings.word_embeddings": 5}, "5 groups"),
        ("split", ["bert.embeddings.stranger"], "stranger"),
        ("split", {}, "must be a list"),
        ("outliers", [], "must be an object"),
        ("outliers", {"bert.encoder.layer.0.output.dense": 0}, "fewer than one outlier"),
        ("outliers", {"bert.encoder.layer.0.output.dense": 2}, "missing .*outlier"),
        ("bits", {"bert.encoder.layer.0.output.dense": 4}, "cannot be unpacked"),
    ],
)
def test_a_card_that_misleads_is_refused(
    bert: BertForQuestionAnswering,
    inputs: Inputs,
    tmp_path: Path,
    key: str,
    value: Any,
    message: str,
) -> None:
    save_integer(_integer(bert, inputs, TERNARY), tmp_path)
    card = json.loads((tmp_path / "quala.json").read_text())
    card["quantization"][key] = value
    (tmp_path / "quala.json").write_text(json.dumps(card))
    with pytest.raises(QualaError, match=message):
        load_integer(tmp_path)
