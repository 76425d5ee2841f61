from __future__ import annotations

import numpy as np
import pytest

from quala.errors import QualaError
from quala.metrics.glue import check_metrics, compute_metric, task_metrics


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


def test_f1_is_that_of_the_positive_class() -> None:
    predicted, gold = np.array([1, 1, 1, 0, 0, 0]), np.array([1, 1, 0, 1, 1, 0])
    # class 0: 1 true positive, 2 false positives, 1 false negative
    assert compute_metric("f1", predicted, gold, positive=0) == pytest.approx(40)
    swapped = compute_metric("f1", 1 - predicted, 1 - gold, positive=0)
    assert swapped == compute_metric("f1", predicted, gold) == pytest.approx(400 / 7)


@pytest.mark.parametrize(
    ("name", "value"),
    # F1: class 0 2/3 of 3 examples, class 1 1/2 of 2, class 2 0 of 1; class 3 is only predicted
    [("f1_macro", 100 * (2 / 3 + 1 / 2) / 4), ("f1_weighted", 100 * (2 + 1) / 6)],
)
def test_means_of_f1_by_hand(name: str, value: float) -> None:
    assert compute_metric(name, [0, 0, 1, 1, 0, 3], [0, 0, 0, 1, 1, 2]) == pytest.approx(value)


def test_a_chosen_metric_is_the_primary_one() -> None:
    assert task_metrics("mrpc", regression=False, metric="f1_macro") == (
        "f1_macro", "f1", "accuracy", "f1_weighted",
    )  # fmt: skip
    assert task_metrics(None, regression=True, metric="pearson")[0] == "pearson"
    with pytest.raises(QualaError, match="labels that are numbers must be one of"):
        task_metrics(None, regression=True, metric="f1")


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
        ("f1", [2], [1], "two classes.* `f1_macro` or `f1_weighted`"),
    ],
)
def test_bad_input_is_refused(
    name: str, predictions: list[int], labels: list[int], message: str
) -> None:
    with pytest.raises(QualaError, match=message):
        compute_metric(name, predictions, labels)


@pytest.mark.parametrize(
    ("metrics", "classes", "message"),
    [
        (("accuracy", "f1"), 3, "`f1` is for two classes, got 3"),
        (("pearson",), 2, "of classes must be one of accuracy.* got pearson"),
        (("accuracy",), None, "of numbers must be one of pearson_spearman.* got accuracy"),
    ],
)
def test_metrics_that_do_not_fit_are_refused(
    metrics: tuple[str, ...], classes: int | None, message: str
) -> None:
    with pytest.raises(QualaError, match=message):
        check_metrics(metrics, classes)
    check_metrics(("f1", "matthews"), 2)
    check_metrics(("f1_macro",), 3)
