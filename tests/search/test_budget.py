from dataclasses import dataclass

import pytest

from quala.errors import QualaError
from quala.search.budget import choose


@dataclass(frozen=True)
class Point:
    cost: float
    score: float


@dataclass(frozen=True)
class Measured:
    cost: float
    score: float
    latency: float


FRONT = [Point(1.0, 60.0), Point(2.0, 80.0), Point(4.0, 85.0)]


def test_a_cost_budget_takes_the_best_score() -> None:
    assert choose(FRONT, max_macs=3.0) == FRONT[1]


def test_a_score_bound_takes_the_lowest_cost() -> None:
    assert choose(FRONT, min_score=70.0) == FRONT[1]


def test_a_loss_is_counted_from_the_best_point() -> None:
    assert choose(FRONT, max_loss=5.0) == FRONT[1]


def test_a_latency_budget_reads_the_measured_latency() -> None:
    front = [Measured(1.0, 60.0, 9.0), Measured(2.0, 80.0, 5.0)]
    assert choose(front, max_latency=6.0) == front[1]


def test_bounds_hold_together() -> None:
    with pytest.raises(QualaError, match=r"macs <= 1\.5 and score >= 70"):
        choose(FRONT, max_macs=1.5, min_score=70.0)


def test_an_impossible_budget_names_the_cheapest() -> None:
    with pytest.raises(QualaError, match=r"the cheapest has macs 1 \(score 60\)"):
        choose(FRONT, max_macs=0.5)


def test_an_empty_front_is_refused() -> None:
    with pytest.raises(QualaError, match="empty"):
        choose([], max_macs=1.0)
