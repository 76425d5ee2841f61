"""The limits beside an option are those of its values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from quala.errors import QualaError
from quala.ranges import check_ranges, ranged


@dataclass(kw_only=True)
class Options:
    share: float = ranged(0.5, above=0, at_most=1)
    count: int | None = ranged(None, at_least=1)
    layers: list[int] | None = ranged(None, at_least=0, below=3)


@pytest.mark.parametrize("options", [{}, {"share": 1.0}, {"count": 1}, {"layers": [0, 2]}])
def test_values_within_their_limits_pass(options: dict[str, Any]) -> None:
    check_ranges(Options(**options))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"share": 0.0}, "`share` must be above 0 and at most 1, got 0.0."),
        ({"share": 1.5}, "`share` must be above 0 and at most 1, got 1.5."),
        ({"count": 0}, "`count` must be at least 1, got 0."),
        ({"layers": [1, 3]}, "`layers` must be at least 0 and below 3, got 3."),
    ],
)
def test_a_value_outside_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(QualaError) as caught:
        check_ranges(Options(**options))
    assert str(caught.value) == sentence
