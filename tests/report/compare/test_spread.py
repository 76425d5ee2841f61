"""Means and spreads against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from quala.compare.group import Spread

VALUES = (80.1, 82.7, 79.9, 81.0)


def test_mean_and_deviation_are_the_samples() -> None:
    spread = Spread(VALUES)
    assert spread.mean == pytest.approx(np.mean(VALUES))
    assert spread.deviation == pytest.approx(np.std(VALUES, ddof=1))
    assert spread.error == spread.deviation


def test_two_values_have_a_range_and_no_deviation() -> None:
    spread = Spread(VALUES[:2])
    assert spread.deviation is None
    assert spread.error == pytest.approx(1.3)


def test_one_value_has_no_spread() -> None:
    spread = Spread(VALUES[:1])
    assert (spread.mean, spread.deviation, spread.error) == (80.1, None, 0.0)


@pytest.mark.parametrize(
    ("count", "text"), [(1, "80.1"), (2, "81.4 (80.1–82.7)"), (4, "80.9 ± 1.3")]
)
def test_a_text_says_as_much_as_is_known(count: int, text: str) -> None:
    assert Spread(VALUES[:count]).text("{:.1f}") == text


def test_unknown_values_do_not_count() -> None:
    assert Spread.of([None, 2.0, None]) == Spread((2.0,))
    assert Spread.of([None]) is None
