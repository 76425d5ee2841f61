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
