from __future__ import annotations

from itertools import pairwise

import pytest

from quala.compress.prune.schedule import cubic_sparsity
from quala.errors import QualaError


def at(step: int, **values: float) -> float:
    return cubic_sparsity(step, begin=10, end=50, final=0.9, **values)


def test_the_schedule_starts_and_ends_where_asked() -> None:
    assert at(10, initial=0.2) == pytest.approx(0.2)
    assert at(50, initial=0.2) == 0.9


def test_the_schedule_is_constant_outside() -> None:
    assert (at(0), at(10), at(1000)) == (0.0, 0.0, 0.9)


def test_half_way_an_eighth_is_left_to_do() -> None:
    assert at(30, initial=0.1) == pytest.approx(0.9 - 0.8 / 8)


def test_sparsity_never_falls_and_slows_down() -> None:
    values = [at(step) for step in range(60)]
    gains = [after - before for before, after in pairwise(values)]
    assert min(gains) >= 0
    assert all(late < early for early, late in pairwise(gains[10:50]))


@pytest.mark.parametrize(("begin", "end"), [(5, 5), (6, 5)])
def test_a_schedule_without_steps_is_refused(begin: int, end: int) -> None:
    with pytest.raises(QualaError, match="`begin`"):
        cubic_sparsity(0, begin=begin, end=end, final=0.5)


@pytest.mark.parametrize(("initial", "final"), [(0.6, 0.5), (-0.1, 0.5), (0.0, 1.0)])
def test_sparsity_that_falls_or_leaves_its_range_is_refused(initial: float, final: float) -> None:
    with pytest.raises(QualaError, match="Sparsity must rise"):
        cubic_sparsity(0, begin=0, end=5, initial=initial, final=final)
