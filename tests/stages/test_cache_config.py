"""What may be cached of a teacher, and which of its states teach then."""

from __future__ import annotations

from typing import Any

import pytest

from quala.errors import QualaError
from quala.stages.distill_options import CacheConfig
from quala.stages.teacher import taught_states

LITTLE = CacheConfig(depth=1, tokens=10, width=0.1)
LOSSES = {"hard": 0.5, "soft": 1.0, "hidden": 1.0, "attention": 0.0, "relation": 0.0}


@pytest.mark.parametrize(
    ("options", "states"),
    [
        ({}, [(0, 0), (1, 1), (2, 2)]),
        ({"depth": 2}, [(1, 1), (2, 2)]),
        ({"states": [0]}, [(0, 0)]),
        ({"top": 4}, [(0, 0), (1, 2), (2, 4)]),
        ({"top": 3, "depth": 1}, [(2, 3)]),
    ],
)
def test_which_states_teach(options: dict[str, Any], states: list[tuple[int, int]]) -> None:
    pairs = [(0, 0), (1, 1)]
    found = taught_states(CacheConfig(**options), pairs, student=2, teacher=4)
    assert found == states


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"attention": 1.0}, "`attention` and `relation` must be 0, got 1.0 and 0.0"),
        ({"relation": 0.5}, "`attention` and `relation` must be 0, got 0.0 and 0.5"),
        ({"soft": 0.0, "hidden": 0.0}, "nothing to store: give `soft` or `hidden` a weight"),
        (
            {"cache": CacheConfig(top=2), "layer_map": [1]},
            r"Either `layer_map` or `cache.top` .* got \[1\] and 2",
        ),
    ],
)
def test_what_a_cache_cannot_teach_is_refused(
    configure: Any, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(QualaError, match=sentence):
        configure("distill", **{"cache": LITTLE, **LOSSES, **options})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"depth": 0}, "`cache.depth` must be at least 1, got 0"),
        ({"top": 0}, "`cache.top` must be at least 1, got 0"),
        ({"tokens": -1}, "`cache.tokens` must be at least 1, got -1"),
        ({"width": 0.0}, "`cache.width` must be above 0 and at most 1, got 0.0"),
        ({"width": 1.5}, "`cache.width` must be above 0 and at most 1, got 1.5"),
        ({"states": []}, "`cache.states` must name a hidden state"),
        ({"depth": 1, "states": [2]}, r"`depth` or `states`, got 1 and \[2\]"),
    ],
)
def test_options_outside_their_range_are_refused(options: Any, sentence: str) -> None:
    with pytest.raises(QualaError, match=sentence):
        CacheConfig(**options)
