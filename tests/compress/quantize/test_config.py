from __future__ import annotations

from typing import Any

import pytest

from quala.compress.quantize.config import QuantizeConfig
from quala.errors import QualaError


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
    ],
)
def test_a_method_keeps_its_width_and_names(wrong: dict[str, Any]) -> None:
    with pytest.raises(QualaError):
        QuantizeConfig(**wrong)


def test_each_kind_of_weight_has_its_own_method() -> None:
    config = QuantizeConfig(
        weight_quantizer="bwn", weight_bits=1, embedding_quantizer="twn", embedding_bits=2
    )
    assert (config.weights.method, config.weights.bits) == ("bwn", 1)
    assert (config.embeddings.method, config.embeddings.bits) == ("twn", 2)
