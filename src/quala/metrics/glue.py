"""The metrics of the GLUE tasks by name, in percent, computed by torchmetrics."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torchmetrics.functional import matthews_corrcoef, pearson_corrcoef, spearman_corrcoef
from torchmetrics.functional.classification import binary_f1_score

from quala.errors import QualaError, unknown

TASK_METRICS = {
    "cola": ("matthews", "accuracy"),
    "mrpc": ("f1", "accuracy"),
    "qqp": ("f1", "accuracy"),
    "stsb": ("pearson_spearman", "pearson", "spearman"),
}
"""Metrics of each GLUE task, the primary one first; other tasks have accuracy only."""

CLASSIFICATION_METRICS = ("accuracy", "f1", "matthews")
REGRESSION_METRICS = ("pearson_spearman", "pearson", "spearman")
CORRELATIONS = {"pearson": pearson_corrcoef, "spearman": spearman_corrcoef}


def task_metrics(subset: str | None, *, regression: bool) -> tuple[str, ...]:
    """Return the names of the metrics of a GLUE task, the primary one first."""
    named = TASK_METRICS.get(subset or "", ("accuracy",))
    fitting = REGRESSION_METRICS if regression else CLASSIFICATION_METRICS
    return named if named[0] in fitting else fitting[:1]


def compute_metric(name: str, predictions: ArrayLike, labels: ArrayLike) -> float:
    """Return a metric in percent: class indices for classification, values for regression.

    `pearson_spearman` is the mean of both. A correlation with a constant, `matthews` included, is
    0.

    Raises:
        QualaError: for an unknown name, for no examples, and for unequal numbers of predictions
            and labels.
    """
    if name not in (*CLASSIFICATION_METRICS, *REGRESSION_METRICS):
        raise unknown("metric", name, (*CLASSIFICATION_METRICS, *REGRESSION_METRICS))
    predicted, gold = np.asarray(predictions), np.asarray(labels)
    if predicted.shape != gold.shape or gold.ndim != 1 or gold.size == 0:
        raise QualaError(
            f"`{name}` needs as many predictions as labels, at least one, "
            f"got shapes {predicted.shape} and {gold.shape}."
        )
    if name in CLASSIFICATION_METRICS:
        return 100.0 * _classification(name, predicted, gold)
    return 100.0 * _correlation(name, predicted, gold)


def _classification(name: str, predicted: NDArray[np.generic], gold: NDArray[np.generic]) -> float:
    if name == "accuracy":
        return float(np.mean(predicted == gold))
    ours = torch.from_numpy(predicted.astype(np.int64))
    theirs = torch.from_numpy(gold.astype(np.int64))
    if name == "f1":
        if int(torch.stack((ours, theirs)).max()) > 1:
            raise QualaError("`f1` is for two classes, labeled 0 and 1, got a third class.")
        return float(binary_f1_score(ours, theirs))
    if len(ours.unique()) == 1 or len(theirs.unique()) == 1:
        return 0.0  # as the GLUE scorer; torchmetrics smooths this case
    classes = max(2, int(torch.stack((ours, theirs)).max()) + 1)
    return float(matthews_corrcoef(ours, theirs, task="multiclass", num_classes=classes))


def _correlation(name: str, predicted: NDArray[np.generic], gold: NDArray[np.generic]) -> float:
    ours = torch.from_numpy(predicted.astype(np.float64))
    theirs = torch.from_numpy(gold.astype(np.float64))
    if _constant(ours) or _constant(theirs):
        return 0.0
    found = [float(CORRELATIONS[part](ours, theirs)) for part in name.split("_")]
    return sum(found) / len(found)


def _constant(values: Tensor) -> bool:
    # Model outputs are float32: values that differ by less than its resolution are constant.
    return bool(values.max() - values.min() <= 1e-7 * values.abs().max())
