from __future__ import annotations

import pytest
from torch import Tensor
from transformers import BertForQuestionAnswering

from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.integer import to_integer
from quala.compress.quantize.model import calibrate, quantize
from quala.compress.quantize.precision import precision_of

BINARY = {"weight_quantizer": "bwn", "weight_bits": 1}


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({}, "int8"),
        ({"quantize_embeddings": False}, "int8"),
        ({"weight_bits": 4, "embedding_bits": 2, "activation_bits": 7}, "w4e2a7"),
        ({"embedding_bits": 4}, "w8e4a8"),
        ({"activation_bits": 4}, "w8e8a4"),
        ({**BINARY, "quantize_embeddings": False}, "w1e32a8"),
    ],
)
def test_the_word_says_the_bits(
    bert: BertForQuestionAnswering,
    inputs: dict[str, Tensor],
    options: dict[str, object],
    precision: str,
) -> None:
    assert precision_of(bert) == "fp32"
    quantize(bert, QuantizeConfig(**options))  # type: ignore[arg-type]
    calibrate(bert, lambda: bert(**inputs))
    assert precision_of(to_integer(bert)) == precision


def test_several_widths_are_joined(
    bert: BertForQuestionAnswering, inputs: dict[str, Tensor]
) -> None:
    quantize(bert, QuantizeConfig(weight_bits=4))
    calibrate(bert, lambda: bert(**inputs))
    made = to_integer(bert)
    made.get_submodule("bert.encoder.layer.0.output.dense").bits = 2  # type: ignore[assignment]
    assert precision_of(made) == "w2-4e8a8"
