"""Which point of a front meets a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from quala.errors import QualaError


class Point(Protocol):
    """A point of a front: any object with a score and a cost."""

    @property
    def score(self) -> float:
        """Return what is to be high."""
        ...

    @property
    def cost(self) -> float:
        """Return what is to be low."""
        ...


P = TypeVar("P", bound=Point)


def choose(
    front: Sequence[P],
    *,
    max_macs: float | None = None,
    max_latency: float | None = None,
    min_score: float | None = None,
    max_loss: float | None = None,
) -> P:
    """Return the point that meets every bound given.

    `max_macs` and `max_latency` (milliseconds) are read from the point's `macs` and `latency`
    where it has them, else from its `cost`. `max_loss` is what may be lost against the front's
    best score. With a bound on the cost the best score wins, without one the lowest cost. Raises
    QualaError for an empty front, and for a budget that no point meets, naming the nearest.
    """
    if not front:
        raise QualaError("The front is empty: there is no point to choose from.")
    needed = _needed_score(front, min_score, max_loss)
    ceilings = {"macs": max_macs, "latency": max_latency}
    bounds = {name: limit for name, limit in ceilings.items() if limit is not None}
    able = [
        point
        for point in front
        if all(_cost(point, name) <= limit for name, limit in bounds.items())
        and point.score >= needed
    ]
    if not able:
        raise QualaError(_refusal(front, bounds, needed))
    if bounds:
        return max(able, key=lambda point: (point.score, -point.cost))
    return min(able, key=lambda point: (point.cost, -point.score))


def _needed_score(
    front: Sequence[Point], min_score: float | None, max_loss: float | None
) -> float:
    needed = [float("-inf")]
    if min_score is not None:
        needed.append(min_score)
    if max_loss is not None:
        needed.append(max(point.score for point in front) - max_loss)
    return max(needed)


def _cost(point: Point, name: str) -> float:
    return float(getattr(point, name, point.cost))


def _refusal(front: Sequence[Point], bounds: dict[str, float], needed: float) -> str:
    limits = [f"{name} <= {limit:g}" for name, limit in bounds.items()]
    if needed > float("-inf"):
        limits.append(f"score >= {needed:g}")
    cost: Callable[[Point], float] = lambda point: point.cost  # noqa: E731
    cheapest, best = min(front, key=cost), max(front, key=lambda point: point.score)
    name = next(iter(bounds), "cost")
    return (
        f"No point of the front has {' and '.join(limits)}: the cheapest has {name} "
        f"{_cost(cheapest, name):g} (score {cheapest.score:g}), the best score is "
        f"{best.score:g} ({name} {_cost(best, name):g})."
    )
