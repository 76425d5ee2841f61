from __future__ import annotations

import numpy as np
import pytest

from quala.errors import QualaError
from quala.metrics.glue import compute_metric, task_metrics


@pytest.mark.parametrize(
    ("subset", "primary"),
    [("cola", "matthews"), ("mrpc", "f1"), ("sst2", "accuracy"), (None, "accuracy")],
)
def test_primary_metric_of_a_task(subset: str | None, primary: str) -> None:
    assert task_metrics(subset, regression=False)[0] == primary


def test_regression_is_scored_by_both_correlations() -> None:
    assert task_metrics("own", regression=True)[0] == "pearson_spearman"


@pytest.mark.parametrize(
    ("name", "value"),
    # confusion: 2 true positives, 1 false positive, 1 false negative, 2 true negatives
    [("accuracy", 400 / 6), ("f1", 200 / 3), ("matthews", 100 * (2 * 2 - 1) / 9)],
)
def test_classification_metrics_by_hand(name: str, value: float) -> None:
    assert compute_metric(name, [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0]) == pytest.approx(value)


def test_correlations_agree_with_numpy() -> None:
    rng = np.random.default_rng(0)
    gold = rng.random(50)
    predicted = gold + rng.random(50)
    ranks = [values.argsort().argsort() for values in (predicted, gold)]
    pearson = 100 * np.corrcoef(predicted, gold)[0, 1]
    spearman = 100 * np.corrcoef(*ranks)[0, 1]
    assert compute_metric("pearson", predicted, gold) == pytest.approx(pearson)
    assert compute_metric("spearman", predicted, gold) == pytest.approx(spearman, abs=1e-2)
    both = compute_metric("pearson_spearman", predicted, gold)
    assert both == pytest.approx((pearson + spearman) / 2, abs=1e-2)


def test_constant_predictions_have_no_correlation() -> None:
    assert compute_metric("pearson_spearman", [1.0, 1.0, 1.0], [0.0, 1.0, 2.0]) == 0.0


def test_one_predicted_class_has_no_matthews() -> None:
    assert compute_metric("matthews", [1, 1, 1], [1, 0, 1]) == 0.0


@pytest.mark.parametrize(
    ("name", "predictions", "labels", "message"),
    [
        ("acuracy", [1], [1], "Did you mean `accuracy`"),
        ("accuracy", [], [], "at least one"),
        ("accuracy", [1, 0], [1], "as many predictions"),
        ("f1", [2], [1], "two classes"),
    ],
)
def test_bad_input_is_refused(
    name: str, predictions: list[int], labels: list[int], message: str
) -> None:
    with pytest.raises(QualaError, match=message):
        compute_metric(name, predictions, labels)
