"""LadaBERT's ratio and its steps."""

from __future__ import annotations

from typing import Any

import pytest

from quala.compress.prune.config import HybridConfig, ratio_steps
from quala.errors import QualaError


def test_the_steps_multiply_to_the_ratio_by_one_factor() -> None:
    steps = ratio_steps(8.0, 3)
    assert steps == pytest.approx([2.0, 4.0, 8.0])
    assert ratio_steps(5.0, 1) == [5.0]


@pytest.mark.parametrize("values", [{"ratio": 1.0}, {"ratio": 2.0, "svd_share": 1.1}])
def test_senseless_configs_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(QualaError, match="must be"):
        HybridConfig(**values)


def test_steps_of_nothing_are_refused() -> None:
    with pytest.raises(QualaError, match="a step"):
        ratio_steps(2.0, 0)
