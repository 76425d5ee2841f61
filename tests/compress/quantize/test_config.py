"""Options: which values share a scale, and which values are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from quala.compress.quantize.config import QuantizeConfig, WeightSpec
from quala.errors import QualaError
from quala.workflow.identity import revisions

WEIGHT = torch.arange(24.0).reshape(4, 6)


def test_a_tensor_is_one_group() -> None:
    assert torch.equal(WeightSpec(granularity="tensor").groups(WEIGHT), WEIGHT.reshape(1, 1, 24))


def test_a_row_is_one_group() -> None:
    assert WeightSpec(granularity="row").groups(WEIGHT)[2, 0].tolist() == [12, 13, 14, 15, 16, 17]


def test_groups_are_neighboring_columns_of_one_row() -> None:
    groups = WeightSpec(granularity="group", group=2).groups(WEIGHT)
    assert groups.shape == (4, 3, 2)
    assert groups[1, 2].tolist() == [10, 11]


@pytest.mark.parametrize("size", [4, 12])
def test_groups_must_fill_the_columns(size: int) -> None:
    with pytest.raises(QualaError, match=f"{size} do not fill the 6 columns"):
        WeightSpec(granularity="group", group=size).groups(WEIGHT)


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight_bits": 1},
        {"activation_bits": 9},
        {"embedding_bits": 0},
        {"activation_range": "min-max"},
        {"ema_decay": 1.0},
        {"percentile": 50.0},
    ],
)
def test_a_value_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(QualaError, match=next(iter(wrong)).replace("_", ".")):
        QuantizeConfig(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight_quantizer": "bwn"},
        {"weight_quantizer": "twn", "weight_bits": 3},
        {"embedding_quantizer": "lat"},
        {"activation_init": "mean"},
        {"embedding_granularity": "column"},
        {"weight_group": 0},
        {"weight_quantizer": "lsq", "weight_init": "kl"},
        {"weight_quantizer": "lsq", "weight_init": "tensorrt"},
    ],
)
def test_a_method_keeps_its_width_and_names(wrong: dict[str, Any]) -> None:
    with pytest.raises(QualaError):
        QuantizeConfig(**wrong)


TENSOR = {"weight_granularity": "tensor", "embedding_granularity": "tensor"}


@pytest.mark.parametrize(
    ("options", "revised"),
    [
        ({"weight_quantizer": "lsq", "weight_init": "kl", **TENSOR}, True),
        ({"embedding_quantizer": "lsq", "weight_init": "kl", **TENSOR}, True),
        ({"activation_range": "lsq", "activation_init": "kl"}, True),
        ({"weight_init": "kl", "activation_init": "kl"}, False),  # nothing is learned
        ({"weight_quantizer": "lsq", "weight_init": "tensorrt", **TENSOR}, False),
        ({"activation_range": "lsq", "weight_init": "kl"}, False),
    ],
)
def test_what_started_by_kl_is_computed_again(options: dict[str, Any], revised: bool) -> None:
    assert bool(revisions(QuantizeConfig(**options))) == revised


def test_each_kind_of_weight_has_its_own_method() -> None:
    config = QuantizeConfig(
        weight_quantizer="bwn", weight_bits=1, embedding_quantizer="twn", embedding_bits=2
    )
    assert (config.weights.method, config.weights.bits) == ("bwn", 1)
    assert (config.embeddings.method, config.embeddings.bits) == ("twn", 2)
