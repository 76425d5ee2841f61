from random import Random

import pytest

from quala.errors import QualaError
from quala.lengths import LengthConfig, constant_drop
from quala.search.space import Space


def test_parameters_make_the_round_trip() -> None:
    space = Space(3, 64)
    gene = LengthConfig((60, 30, 2), 64)
    assert space.from_params(space.to_params(gene)) == gene


def test_unfinished_parameters_are_no_gene() -> None:
    assert Space(3, 64).from_params({"length_1": 5, "length_2": 4}) is None


@pytest.mark.parametrize("step", [1, 3, 8])
def test_repair_gives_grid_lengths_that_never_grow(step: int) -> None:
    space, rng = Space(5, 64, floor=4, step=step), Random(0)
    for _ in range(50):
        gene = space.repair([rng.uniform(-10, 80) for _ in range(5)])
        assert all((64 - length) % step == 0 and length >= 4 for length in gene.lengths)


def test_distributions_hold_the_grid() -> None:
    one = Space(2, 64, floor=3, step=8).distributions()["length_1"]
    assert (one.low, one.high, one.step) == (8, 64, 8)  # type: ignore[attr-defined]


def test_lowest_is_the_lower_gene() -> None:
    lower = constant_drop(0.2, layers=6, sequence_length=384)
    assert Space(6, 384, lower=lower).lowest == lower


def test_lowest_without_a_lower_gene_is_the_floor() -> None:
    assert Space(2, 64).lowest.lengths == (2, 2)


@pytest.mark.parametrize("floor", [1, 65])
def test_a_floor_outside_the_sequence_is_refused(floor: int) -> None:
    with pytest.raises(QualaError, match="floor"):
        Space(2, 64, floor=floor)
