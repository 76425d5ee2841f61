"""The metrics of the GLUE tasks by name, in percent.

torch and torchmetrics are imported by the first score that they compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quala.errors import QualaError, unknown
from quala.metrics.classes import class_counts, precision_recall_f1
from quala.metrics.ranking import RANKING_METRICS, USUAL

if TYPE_CHECKING:
    from torch import Tensor

TASK_METRICS = {
    "cola": ("matthews", "accuracy"),
    "mrpc": ("f1", "accuracy"),
    "qqp": ("f1", "accuracy"),
    "stsb": ("pearson_spearman", "pearson", "spearman"),
}
"""Metrics of each GLUE task, the primary one first; other tasks have accuracy."""

MEANS_OF_F1 = ("f1_macro", "f1_weighted")
"""Reported beside the others for all classes: the mean of their F1, plain or by examples."""
CLASSIFICATION_METRICS = ("accuracy", "f1", *MEANS_OF_F1, "matthews")
REGRESSION_METRICS = ("pearson_spearman", "pearson", "spearman")
METRICS = (*CLASSIFICATION_METRICS, *REGRESSION_METRICS, *RANKING_METRICS)
"""Those of rankings are for pairs of a query and an item, labeled by classes or by numbers."""


def task_metrics(
    subset: str | None, *, regression: bool, metric: str | None = None, ranked: bool = False
) -> tuple[str, ...]:
    """Return the names of the metrics of a GLUE task, the primary one first.

    That is `metric` where it is given; those of rankings are among them where data are `ranked`.
    Raises QualaError for a metric that does not fit the labels.
    """
    fitting = REGRESSION_METRICS if regression else CLASSIFICATION_METRICS
    if metric is not None and metric not in (*fitting, *RANKING_METRICS):
        kind = "numbers" if regression else "classes"
        raise QualaError(
            f"`data.metric` of labels that are {kind} must be one of {', '.join(fitting)}, "
            f"got {metric}."
        )
    named = TASK_METRICS.get(subset or "", ("accuracy",))
    named = named if named[0] in fitting else fitting[:1]
    first = (metric,) if metric else ()
    means = () if regression else MEANS_OF_F1
    rankings = USUAL if ranked else ()
    return tuple(dict.fromkeys((*first, *named, *means, *rankings)))


def check_metrics(metrics: Sequence[str], classes: int | None) -> None:
    """Raise QualaError for a metric that does not fit so many classes, or (None) numbers."""
    fitting = REGRESSION_METRICS if classes is None else CLASSIFICATION_METRICS
    for name in metrics:
        if name in RANKING_METRICS and classes not in (2, None):
            raise QualaError(
                f"`{name}` ranks by the probability of one of two classes, or by a number, got "
                f"{classes} classes."
            )
        if name not in (*fitting, *RANKING_METRICS):
            kind = "numbers" if classes is None else "classes"
            raise QualaError(
                f"A metric of {kind} must be one of {', '.join(fitting)}, got {name}."
            )
        if name == "f1" and classes != 2:
            raise QualaError(
                f"`f1` is for two classes, got {classes}; use `f1_macro` or `f1_weighted`."
            )


def compute_metric(
    name: str, predictions: ArrayLike, labels: ArrayLike, *, positive: int = 1
) -> float:
    """Return a metric in percent: class indices for classification, values for regression.

    `f1` is that of the class `positive` of two. `f1_macro` is the mean of the F1 of all classes
    that occur, `f1_weighted` the mean over the examples. `pearson_spearman` is the mean of both.
    A correlation with a constant, `matthews` included, is 0.

    Raises:
        QualaError: for an unknown name, for no examples, and for unequal numbers of predictions
            and labels.
    """
    if name not in METRICS or name in RANKING_METRICS:
        raise unknown("metric", name, (*CLASSIFICATION_METRICS, *REGRESSION_METRICS))
    predicted, gold = np.asarray(predictions), np.asarray(labels)
    if predicted.shape != gold.shape or gold.ndim != 1 or gold.size == 0:
        raise QualaError(
            f"`{name}` needs as many predictions as labels, at least one, "
            f"got shapes {predicted.shape} and {gold.shape}."
        )
    if name in CLASSIFICATION_METRICS:
        return 100.0 * _classification(name, predicted, gold, positive)
    return 100.0 * _correlation(name, predicted, gold)


def _classification(
    name: str, predicted: NDArray[np.generic], gold: NDArray[np.generic], positive: int
) -> float:
    if name == "accuracy":
        return float(np.mean(predicted == gold))
    if name in MEANS_OF_F1:
        return _mean_f1(predicted, gold, weighted=name == "f1_weighted")
    import torch
    from torchmetrics.functional import matthews_corrcoef
    from torchmetrics.functional.classification import binary_f1_score

    ours = torch.from_numpy(predicted.astype(np.int64))
    theirs = torch.from_numpy(gold.astype(np.int64))
    if name == "f1":
        if int(torch.stack((ours, theirs)).max()) > 1:
            raise QualaError(
                "`f1` is for two classes, labeled 0 and 1, got a third class; use `f1_macro` or "
                "`f1_weighted`."
            )
        return float(binary_f1_score((ours == positive).long(), (theirs == positive).long()))
    if len(ours.unique()) == 1 or len(theirs.unique()) == 1:
        return 0.0  # as the GLUE scorer; torchmetrics smooths this case
    classes = max(2, int(torch.stack((ours, theirs)).max()) + 1)
    return float(matthews_corrcoef(ours, theirs, task="multiclass", num_classes=classes))


def _mean_f1(
    predicted: NDArray[np.generic], gold: NDArray[np.generic], *, weighted: bool
) -> float:
    classes, places = np.unique(np.concatenate((predicted, gold)), return_inverse=True)
    counts = class_counts(places[: len(gold)], places[len(gold) :], len(classes))
    weights = counts[:, 2] if weighted else None
    return float(np.average(precision_recall_f1(counts)[2], weights=weights))


def _correlation(name: str, predicted: NDArray[np.generic], gold: NDArray[np.generic]) -> float:
    import torch
    from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef

    ours = torch.from_numpy(predicted.astype(np.float64))
    theirs = torch.from_numpy(gold.astype(np.float64))
    if _constant(ours) or _constant(theirs):
        return 0.0
    both = {"pearson": pearson_corrcoef, "spearman": spearman_corrcoef}
    found = [float(both[part](ours, theirs)) for part in name.split("_")]
    return sum(found) / len(found)


def _constant(values: Tensor) -> bool:
    # Model outputs are float32: values that differ by less than its resolution are constant.
    return bool(values.max() - values.min() <= 1e-7 * values.abs().max())
