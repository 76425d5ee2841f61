"""Spaces of lengths: bounds, operators and repairs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest

from quala.errors import QualaError
from quala.lengths import LengthConfig, constant_drop
from quala.search import space as operators
from quala.search.space import Space


def test_parameters_make_the_round_trip() -> None:
    space = Space(3, 64)
    lengths = LengthConfig((60, 30, 2), 64)
    assert space.from_params(space.to_params(lengths)) == lengths


def test_unfinished_parameters_are_no_lengths() -> None:
    assert Space(3, 64).from_params({"length_1": 5, "length_2": 4}) is None


@pytest.mark.parametrize("step", [1, 3, 8])
def test_repair_gives_grid_lengths_that_never_grow(step: int) -> None:
    space, rng = Space(5, 64, floor=4, step=step), Random(0)
    for _ in range(50):
        lengths = space.repair([rng.uniform(-10, 80) for _ in range(5)])
        assert all((64 - length) % step == 0 and length >= 4 for length in lengths.lengths)


def test_distributions_hold_the_grid() -> None:
    one = Space(2, 64, floor=3, step=8).distributions()["length_1"]
    assert (one.low, one.high, one.step) == (8, 64, 8)  # type: ignore[attr-defined]


def test_lowest_is_the_lower_bound() -> None:
    lower = constant_drop(0.2, layers=6, sequence_length=384)
    assert Space(6, 384, lower=lower).lowest == lower


def test_lowest_without_a_lower_bound_is_the_floor() -> None:
    assert Space(2, 64).lowest.lengths == (2, 2)


@pytest.mark.parametrize("floor", [1, 65])
def test_a_floor_outside_the_sequence_is_refused(floor: int) -> None:
    with pytest.raises(QualaError, match="floor"):
        Space(2, 64, floor=floor)


SPACE = Space(6, 384, lower=constant_drop(0.2, layers=6, sequence_length=384))
Operator = Callable[[LengthConfig, LengthConfig, Random], LengthConfig]

OPERATORS: dict[str, Operator] = {
    "mutate": lambda a, b, rng: operators.mutate(a, rng, space=SPACE, probability=0.5),
    "average": lambda a, b, rng: operators.average(a, b, space=SPACE),
    "splice": lambda a, b, rng: operators.splice(a, b, rng, space=SPACE),
    "pick": lambda a, b, rng: operators.pick(a, b, rng, space=SPACE),
    "jitter": lambda a, b, rng: operators.jitter(a, rng, space=SPACE),
    "stop_dropping": lambda a, b, rng: operators.stop_dropping(a, rng, space=SPACE),
    "set_suffix": lambda a, b, rng: operators.set_suffix(a, rng, space=SPACE),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_children_stay_in_the_space(name: str) -> None:
    rng = Random(3)
    for _ in range(200):
        child = OPERATORS[name](SPACE.draw(rng), SPACE.draw(rng), rng)
        assert SPACE.repair(child.lengths) == child


@pytest.mark.parametrize("name", OPERATORS)
def test_the_same_randomness_gives_the_same_child(name: str) -> None:
    first, second = SPACE.draw(Random(1)), SPACE.draw(Random(2))
    once = OPERATORS[name](first, second, Random(7))
    assert OPERATORS[name](first, second, Random(7)) == once


def test_average_rounds_halves_up() -> None:
    first, second = LengthConfig((10, 7), 16), LengthConfig((11, 4), 16)
    assert operators.average(first, second, space=Space(2, 16)).lengths == (11, 6)


def test_mutation_keeps_a_length_between_its_neighbors() -> None:
    lengths = LengthConfig((300, 200, 100), 384)
    for seed in range(200):
        child = operators.mutate(lengths, Random(seed), space=Space(3, 384), probability=0.5)
        assert child.lengths[0] >= 200
        assert child.lengths[1] >= 100


def test_mutation_with_probability_zero_copies() -> None:
    lengths = LengthConfig((300, 200, 100), 384)
    assert operators.mutate(lengths, Random(0), space=Space(3, 384), probability=0.0) == lengths


@pytest.mark.parametrize(("layers", "length"), [(6, 384), (12, 384), (6, 128)])
def test_constant_rates_are_evenly_spaced(layers: int, length: int) -> None:
    lower = constant_drop(0.2, layers=layers, sequence_length=length)
    space = Space(layers, length, lower=lower)
    candidates = [lower, *operators.constant_rates(space, 20), space.full]
    shares = [sum(lengths.lengths) / (layers * length) for lengths in candidates]
    steps = [after - before for before, after in pairwise(shares)]
    assert max(abs(step - (1 - shares[0]) / 21) for step in steps) < 0.015


def test_stopping_to_drop_keeps_more() -> None:
    lengths = LengthConfig((300, 200, 100), 384)
    child = operators.stop_dropping(lengths, Random(0), space=Space(3, 384))
    assert sum(child.lengths) > sum(lengths.lengths)
