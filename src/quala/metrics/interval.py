"""95 % intervals of scores, and of the difference of two scores on the same examples.

Examples count as independent draws. All scores are in percent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Bounds = tuple[float, float]
CERTAINTY = 0.95
Z = NormalDist().inv_cdf(0.5 + CERTAINTY / 2)
TAILS = (50 * (1 - CERTAINTY), 50 * (1 + CERTAINTY))
MOST, LEAST, DRAWS = 2000, 200, 4_000_000
"""Resamples of a bootstrap, and about how many examples it draws: 0.2 s on one core."""
SEED = 0
SIGNED = ("matthews", "pearson", "spearman", "pearson_spearman")
"""Metrics from -100 on; others are from 0 on."""


@dataclass(frozen=True, eq=False)
class Sample:
    """What the uncertainty of one score is read from.

    `values` are the scores of `examples` examples, whose mean the score is; or, where `resampled`,
    the metric of bootstrap resamples, equal draws for equal `examples`. Scores begin at `lowest`.
    """

    values: Floats
    examples: int
    resampled: bool = False
    lowest: float = 0.0

    def interval(self) -> Bounds:
        """Return the interval of the score.

        For a share of right answers it is Wilson's, for another mean Student's t, for resamples
        the percentiles. Where all values are equal, Wilson's bound is used in any case: a few
        equal values do not make a score certain.
        """
        values, count, z2 = self.values, self.examples, Z * Z
        mean = float(values.mean())
        if self.resampled:
            low, high = _percentiles(values)
            gap = 0.0 if high > low else (100 - self.lowest) * z2 / (count + z2)
            return max(self.lowest, low - gap), min(100.0, high + gap)
        if np.ptp(values) and not np.isin(values, (0.0, 100.0)).all():
            from scipy.stats import t

            half = float(t.ppf(TAILS[1] / 100, count - 1) * values.std(ddof=1) / math.sqrt(count))
            return max(0.0, mean - half), min(100.0, mean + half)
        share = mean / 100
        middle = (share + z2 / (2 * count)) / (1 + z2 / count)
        half = math.sqrt(share * (1 - share) / count + z2 / (2 * count) ** 2) / (1 + z2 / count)
        low, high = 100 * (middle - Z * half), 100 * (middle + Z * half)
        return low if share > 0 else 0.0, high if share < 1 else 100.0

    def loss(self, full: Sample) -> Bounds:
        """Return the interval of how much this score is below that of `full`, paired.

        For means it is Wald's with one more example that gains everything and one that loses
        everything (Bonett and Price 2012), so that equal answers on a few examples are no proof.
        """
        lost, width = full.values - self.values, 100 - self.lowest
        if self.resampled:
            low, high = _percentiles(lost)
            # Of that rule, what is left where no example differs.
            half = 0.0 if high > low else Z * width * math.sqrt(2) / (self.examples + 2)
            return low - half, high + half
        adjusted = np.append(lost, (width, -width))
        half = float(Z * adjusted.std() / math.sqrt(len(adjusted)))
        return float(adjusted.mean()) - half, float(adjusted.mean()) + half


METRIC_NAMES = {
    "f1": "F1",
    "f1_macro": "macro F1",
    "f1_weighted": "weighted F1",
    "precision": "Precision",
    "recall": "Recall",
    "mrr": "MRR",
    "ndcg_10": "nDCG@10",
    "accuracy": "Accuracy",
    "matthews": "Matthews",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "pearson_spearman": "Pearson/Spearman",
}


def metric_name(metric: str) -> str:
    """Return how a metric is written in a heading."""
    return METRIC_NAMES.get(metric, metric)


def interval_text(interval: Bounds | None) -> str:
    """Return an interval as text, such as `87.5 to 88.7`, a dash for None."""
    return "-" if interval is None else "{:.1f} to {:.1f}".format(*interval)


def score_text(score: float | None, interval: Bounds | None) -> str:
    """Return a score with its interval where that is known, such as `88.12 (87.5 to 88.7)`."""
    shown = "-" if score is None else f"{score:.2f}"
    return shown if interval is None else f"{shown} ({interval_text(interval)})"


def resampled(
    metric: str, predicted: ArrayLike, gold: ArrayLike, *, positive: int = 1
) -> Sample | None:
    """Return bootstrap resamples of a metric of `quala.metrics.glue`, None for another one.

    `positive` is the class that `f1` is of.
    """
    ours, theirs = np.asarray(predicted), np.asarray(gold)
    count = len(theirs)
    repeats = min(MOST, max(LEAST, DRAWS // count))
    drawn = np.random.default_rng(SEED).integers(count, size=(repeats, count))
    if metric in ("accuracy", "f1", "f1_macro", "f1_weighted", "matthews"):
        values = _classification(metric, ours, theirs, drawn, positive)
    elif metric in SIGNED:
        values = _correlation(metric, ours, theirs, drawn)
    else:
        return None
    lowest = -100.0 if metric in SIGNED else 0.0
    return Sample(100 * values, count, resampled=True, lowest=lowest)


def resampled_f1(counts: ArrayLike) -> Sample:
    """Return bootstrap resamples of the F1 of all classes as one.

    `counts` (E, 3) are those of each example: found, predicted, there.
    """
    each = np.asarray(counts, dtype=np.float64)
    count = len(each)
    repeats = min(MOST, max(LEAST, DRAWS // count))
    drawn = np.random.default_rng(SEED).integers(count, size=(repeats, count))
    sums = _counts(drawn, count) @ each  # (R, 3)
    values = _ratio(2 * sums[:, 0], sums[:, 1] + sums[:, 2])
    return Sample(100 * values, count, resampled=True)


def _percentiles(values: Floats) -> Bounds:
    low, high = np.percentile(values, TAILS).tolist()
    return low, high


def _counts(drawn: Indices, kinds: int) -> Indices:
    """Return how often each of `kinds` codes is in each row of (R, n) codes, (R, kinds)."""
    rows = np.arange(len(drawn))[:, None] * kinds
    return np.bincount((drawn + rows).ravel(), minlength=len(drawn) * kinds).reshape(-1, kinds)


def _ratio(top: Floats, bottom: Floats | Indices) -> Floats:
    """Return the quotients, 0 where the metric is not defined."""
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def _classification(
    metric: str, ours: NDArray[Any], theirs: NDArray[Any], drawn: Indices, positive: int
) -> Floats:
    count = len(theirs)
    if metric == "f1":
        said, true = (ours == positive)[drawn], (theirs == positive)[drawn]  # (R, n)
        hits = (said & true).sum(axis=1, dtype=np.float64)
        return _ratio(2 * hits, said.sum(axis=1) + true.sum(axis=1))
    right = (ours == theirs)[drawn].sum(axis=1, dtype=np.float64)
    if metric == "accuracy":
        return np.asarray(right / count)
    names, codes = np.unique(np.concatenate([ours, theirs]), return_inverse=True)
    of_ours, of_theirs = codes[:count], codes[count:]
    said, true = (_counts(part[drawn], len(names)) for part in (of_ours, of_theirs))
    if metric == "matthews":
        said, true = said.astype(np.float64), true.astype(np.float64)
        spread = (count**2 - (said**2).sum(axis=1)) * (count**2 - (true**2).sum(axis=1))
        return _ratio(right * count - (said * true).sum(axis=1), np.sqrt(spread))
    hit = np.where(of_ours == of_theirs, of_theirs, len(names))  # a wrong one is of no class
    hits = _counts(hit[drawn], len(names) + 1)[:, :-1].astype(np.float64)
    each = _ratio(2 * hits, said + true)  # (R, classes)
    if metric == "f1_weighted":
        return np.asarray((each * true).sum(axis=1) / count)
    return np.asarray(each.sum(axis=1) / (said + true > 0).sum(axis=1))


def _correlation(metric: str, ours: NDArray[Any], theirs: NDArray[Any], drawn: Indices) -> Floats:
    parts = []
    for part in metric.split("_"):
        view = _ranks if part == "spearman" else np.take
        x, y = view(ours, drawn), view(theirs, drawn)
        x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
        spread = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
        parts.append(_ratio((x * y).sum(axis=1), spread))
    return np.asarray(sum(parts) / len(parts))


def _ranks(values: NDArray[Any], drawn: Indices) -> Floats:
    """Return the ranks within each resample, (R, n); equal values share their mean rank."""
    kinds, codes = np.unique(values, return_inverse=True)
    counts = _counts(codes[drawn], len(kinds))
    return np.take_along_axis(counts.cumsum(axis=1) - (counts - 1) / 2, codes[drawn], axis=1)
