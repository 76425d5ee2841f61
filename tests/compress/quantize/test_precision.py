from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import BertForQuestionAnswering

from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.files import bits_of, precision_of, weight_counts
from quala.compress.quantize.integer import to_integer
from quala.compress.quantize.transform import calibrate, quantize

BINARY = {"weight_quantizer": "bwn", "weight_bits": 1}


@pytest.mark.parametrize(
    ("options", "precision", "bits"),
    [
        ({}, "int8", "8-8-8"),
        ({"quantize_embeddings": False}, "int8", "8-32-8"),
        ({"weight_bits": 4, "embedding_bits": 2, "activation_bits": 7}, "w4e2a7", "4-2-7"),
        ({"embedding_bits": 4}, "w8e4a8", "8-4-8"),
        ({"activation_bits": 4}, "w8e8a4", "8-8-4"),
        ({**BINARY, "quantize_embeddings": False}, "w1e32a8", "1-32-8"),
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
