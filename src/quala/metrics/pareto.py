"""Fronts of points with a score to maximize and a cost to minimize: exact, in two dimensions."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quala.errors import QualaError

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def pareto_front(scores: ArrayLike, costs: ArrayLike) -> Indices:
    """Return the indices of the non-dominated points by rising cost (and so rising score).

    A point is dominated when another is at least as good in both and better in one. Of equal
    points the first stays. Raises QualaError for values that are not finite or not paired.
    """
    score, cost = _points(scores, costs)
    order = np.lexsort((np.arange(len(score)), -score, cost))  # cost, then score, then index
    ranked = score[order]
    best_before = np.concatenate(([-np.inf], np.maximum.accumulate(ranked)[:-1]))[: len(ranked)]
    return order[ranked > best_before]


def hypervolume(
    scores: ArrayLike, costs: ArrayLike, *, reference_score: float, reference_cost: float
) -> float:
    """Return the area that the points dominate above the reference score, below its cost."""
    score, cost = _points(scores, costs)
    inside = (score > reference_score) & (cost < reference_cost)
    score, cost = score[inside], cost[inside]
    front = pareto_front(score, cost)
    widths = np.diff(np.append(cost[front], reference_cost))
    return float(np.sum(widths * (score[front] - reference_score)))


def _points(scores: ArrayLike, costs: ArrayLike) -> tuple[Floats, Floats]:
    score = np.asarray(scores, dtype=np.float64)
    cost = np.asarray(costs, dtype=np.float64)
    if score.ndim != 1 or score.shape != cost.shape:
        raise QualaError(
            f"Scores and costs must be paired lists, got shapes {score.shape} and {cost.shape}."
        )
    if not (np.isfinite(score).all() and np.isfinite(cost).all()):
        raise QualaError("Scores and costs must be finite, got nan or inf.")
    return score, cost
