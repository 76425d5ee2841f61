from __future__ import annotations

import numpy as np
import pytest

from quala.errors import QualaError
from quala.metrics.pareto import hypervolume, pareto_front


def clouds(seed: int, *, count: int = 50) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(0, 6, size).astype(float), rng.integers(0, 6, size).astype(float))
        for size in rng.integers(1, 15, count)
    ]


def dominated(scores: np.ndarray, costs: np.ndarray, point: int) -> bool:
    for other in range(len(scores)):
        no_worse = scores[other] >= scores[point] and costs[other] <= costs[point]
        better = scores[other] > scores[point] or costs[other] < costs[point]
        if no_worse and (better or other < point):
            return True
    return False


def test_front_agrees_with_the_definition() -> None:
    for scores, costs in clouds(0):
        points = range(len(scores))
        expected = [point for point in points if not dominated(scores, costs, point)]
        assert sorted(pareto_front(scores, costs).tolist()) == expected


def test_front_rises_strictly_in_both() -> None:
    for scores, costs in clouds(1):
        front = pareto_front(scores, costs)
        assert (np.diff(scores[front]) > 0).all()
        assert (np.diff(costs[front]) > 0).all()


def test_hypervolume_counts_dominated_cells() -> None:
    for scores, costs in clouds(2):
        cells = [
            (score, cost)
            for score in range(1, 6)
            for cost in range(1, 6)
            if any(scores[i] >= score and costs[i] <= cost - 1 for i in range(len(scores)))
        ]
        area = hypervolume(scores, costs, reference_score=0, reference_cost=5)
        assert area == pytest.approx(len(cells))


def test_hypervolume_of_points_outside_the_reference_is_zero() -> None:
    assert hypervolume([1.0], [9.0], reference_score=0, reference_cost=5) == 0


def test_no_points_have_an_empty_front() -> None:
    assert pareto_front([], []).size == 0
    assert hypervolume([], [], reference_score=0, reference_cost=1) == 0


@pytest.mark.parametrize(("scores", "costs"), [([1.0], [1.0, 2.0]), ([float("nan")], [1.0])])
def test_unpaired_or_infinite_values_are_refused(scores: list[float], costs: list[float]) -> None:
    with pytest.raises(QualaError):
        pareto_front(scores, costs)
