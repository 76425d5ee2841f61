"""Which point of a front keeps a promise about its loss."""

from __future__ import annotations

from statistics import NormalDist

from quala.errors import QualaError
from quala.search.result import Candidate, SearchResult


def choose(found: SearchResult, *, max_loss: float, certainty: float) -> Candidate:
    """Return the cheapest point of the front that loses no more than `max_loss`, surely.

    The loss is against the full length, on the search slice. A point counts when its loss plus z
    standard errors stays within the bound, z the normal quantile of `certainty` (0.5: the loss as
    seen): the cheapest of many noisy scores is mostly a lucky one. A point without an error is
    taken at its word. Where no point is that sure it is the full length, or the best score where
    that one was not scored or may not be used. The rule is that of one standard error (Breiman et
    al. 1984, Classification and Regression Trees, 3.4.3), with the errors of differences on the
    same examples. Raises QualaError for an empty front.
    """
    front = found.front
    if not front:
        raise QualaError("The front is empty: there is no point to choose from.")
    z = NormalDist().inv_cdf(certainty)
    best = max(front, key=lambda point: point.score)
    reference = (found.full or best).score
    for point in front:  # cheapest first
        if reference - point.score + z * (point.error or 0.0) <= max_loss:
            return point
    return found.full if found.full and found.full.feasible else best
