"""Scores of rankings, against plain loops and scikit-learn's nDCG."""

from __future__ import annotations

import numpy as np
import pytest

from quala.errors import QualaError
from quala.metrics.ranking import query_scores

QUERIES, ITEMS = 30, 15


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Scores and graded labels, (queries, items); some queries have no relevant item."""
    rng = np.random.default_rng(0)
    shape = (QUERIES, ITEMS)
    return rng.normal(size=shape), rng.integers(0, 4, shape) * (rng.random(shape) < 0.2)


def shuffled(*columns: np.ndarray) -> list[np.ndarray]:
    """Return the rows of all queries in any order: those of a query need not be together."""
    order = np.random.default_rng(1).permutation(QUERIES * ITEMS)
    return [column.ravel()[order] for column in columns]


def test_reciprocal_ranks(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    scores, gold = drawn
    names = np.repeat(np.arange(QUERIES), ITEMS)
    values, labels, queries = shuffled(scores, gold, names)
    found = query_scores("mrr", values, labels, queries.tolist())
    expected = [
        100 / (1 + np.flatnonzero(row[np.argsort(-score)] > 0)[0])
        for score, row in zip(scores, gold, strict=True)
        if row.any()
    ]
    assert len(expected) < QUERIES
    assert sorted(found) == pytest.approx(sorted(expected))
    for first in (1, 3, 10):
        hits = query_scores(f"hits_{first}", values, labels, queries.tolist())
        assert sorted(hits) == sorted(100.0 * (one >= 100 / first - 1e-9) for one in expected)


def test_ndcg_is_that_of_scikit_learn(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores, gold = drawn
    names = np.repeat(np.arange(QUERIES), ITEMS)
    found = query_scores("ndcg_10", *shuffled(scores, gold), shuffled(names)[0].tolist())
    some = (gold > 0).any(axis=1)
    assert found.mean() == pytest.approx(100 * metrics.ndcg_score(gold[some], scores[some], k=10))


@pytest.mark.parametrize(("metric", "score"), [("mrr", 100 / 3), ("ndcg_10", 50.0)])
def test_equal_scores_are_in_the_worst_order(metric: str, score: float) -> None:
    found = query_scores(metric, [1.0, 1.0, 1.0], [1, 0, 0], ["a", "a", "a"])
    assert found.tolist() == pytest.approx([score])


def test_nothing_relevant_is_refused() -> None:
    with pytest.raises(QualaError, match="needs a query with a relevant item"):
        query_scores("mrr", [1.0], [0], ["a"])
