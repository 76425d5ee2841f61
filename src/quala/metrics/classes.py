"""Precision, recall and F1 of each class, from counts.

Counts are (..., K, 3): of each of K classes how often it was found where it is, how often it was
predicted, and how often it is there (its support).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def class_counts(predicted: ArrayLike, gold: ArrayLike, classes: int) -> Counts:
    """Return the counts (classes, 3) of predicted and gold class indices."""
    ours, theirs = np.asarray(predicted), np.asarray(gold)
    parts = (ours[ours == theirs], ours, theirs)
    return np.stack([np.bincount(part, minlength=classes) for part in parts], axis=-1)


def precision_recall_f1(counts: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """Return three shares, each (...): 0 where nothing was predicted or nothing is there."""
    hits, said, there = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    parts = ((hits, said), (hits, there), (2 * hits, said + there))
    precision, recall, f1 = (
        np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0) for top, bottom in parts
    )
    return precision, recall, f1


def class_table(names: Sequence[str], counts: Counts) -> list[dict[str, Any]]:
    """Return for each class its name, precision, recall and F1 in percent, and its support."""
    scores = [100 * part for part in precision_recall_f1(counts)]
    return [
        {
            "class": name,
            **{key: float(part[row]) for key, part in zip(("precision", "recall", "f1"), scores)},
            "support": int(counts[row, 2]),
        }
        for row, name in enumerate(names)
    ]
