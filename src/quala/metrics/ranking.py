"""Scores of rankings: each query has some items, the better ones should come first.

The formulas are those of trec_eval: queries without a relevant item do not count. Of equal scores
the less relevant item comes first, so that a model that tells nothing apart gets the worst score.
Not from torchmetrics: it takes one query a call, and keeps the order of the data for equal scores.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quala.errors import QualaError

HITS = ("hits_1", "hits_3", "hits_10")
"""Whether a relevant item is among the first 1, 3 or 10."""
USUAL = ("mrr", "ndcg_10")
"""The mean reciprocal rank of the first relevant item, and nDCG of the first ten."""
RANKING_METRICS = (*USUAL, *HITS)
FIRST = 10

Floats = NDArray[np.float64]


def query_scores(
    metric: str, scores: ArrayLike, relevance: ArrayLike, queries: Sequence[Hashable]
) -> Floats:
    """Return a metric in percent of each query that has a relevant item (relevance above 0).

    `scores`, `relevance` and `queries` have an entry for each item. The gain of nDCG is the
    relevance itself. Raises QualaError where no query has a relevant item.
    """
    value, gain = (np.asarray(part, dtype=np.float64) for part in (scores, relevance))
    number: dict[Hashable, int] = {}
    of = np.array([number.setdefault(query, len(number)) for query in queries], dtype=np.int64)
    order = np.lexsort((gain, -value, of))
    rank, gains = _ranks(of[order]), gain[order]
    some = np.bincount(of, weights=gain > 0, minlength=len(number)) > 0
    if not some.any():
        raise QualaError(f"`{metric}` needs a query with a relevant item, got none.")
    if metric != "ndcg_10":
        first = np.full(len(number), np.inf)
        np.minimum.at(first, of[order], np.where(gains > 0, rank + 1.0, np.inf))
        if metric in HITS:
            return np.where(first[some] <= int(metric.removeprefix("hits_")), 100.0, 0.0)
        return 100.0 / first[some]
    best = np.lexsort((-gain, of))  # the queries in the same order
    found, ideal = (
        np.bincount(of[order], weights=_discounted(part, rank), minlength=len(number))
        for part in (gains, gain[best])
    )
    return np.asarray(100.0 * found[some] / ideal[some])


def _ranks(of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place within its query of each item, from 0; `of` is rising."""
    starts = np.flatnonzero(np.diff(of, prepend=-1))
    return np.arange(len(of)) - np.repeat(starts, np.diff(np.append(starts, len(of))))


def _discounted(gains: Floats, rank: NDArray[np.int64]) -> Floats:
    return np.where(rank < FIRST, np.maximum(gains, 0) / np.log2(rank + 2.0), 0.0)
