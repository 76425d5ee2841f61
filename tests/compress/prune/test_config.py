"""LadaBERT's split and steps."""

from __future__ import annotations

import math
from typing import Any

import pytest

from quala.compress.prune.config import HybridConfig, ratio_steps, split_ratio
from quala.errors import QualaError


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_parts_multiply_to_the_ratio(share: float) -> None:
    svd, pruning = split_ratio(10.0, share)
    assert svd * pruning == pytest.approx(10.0)
    assert math.log(svd) == pytest.approx(share * math.log(10.0), abs=1e-12)


def test_the_steps_multiply_to_the_ratio_by_one_factor() -> None:
    steps = ratio_steps(8.0, 3)
    assert steps == pytest.approx([2.0, 4.0, 8.0])
    assert ratio_steps(5.0, 1) == [5.0]


@pytest.mark.parametrize("values", [{"ratio": 1.0}, {"ratio": 2.0, "svd_share": 1.1}])
def test_senseless_configs_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(QualaError, match="allowed is"):
        HybridConfig(**values)


def test_steps_of_nothing_are_refused() -> None:
    with pytest.raises(QualaError, match="a step"):
        ratio_steps(2.0, 0)
