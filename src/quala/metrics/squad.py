"""Exact match and F1 of SQuAD 1.1 and 2.0, equal to the official evaluators' to the last digit.

Not from torchmetrics: it computes in float32, and if both answers are empty after normalization,
its F1 is 1, where the official evaluator of version 1.1 gives 0.

Version 2.0 has questions without an answer, to which the right answer is the empty text. Where
`null` is true here, its definitions hold: gold answers that are empty after normalization do not
count, a question without others has the gold answer "", and two empty answers agree.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from quala.errors import QualaError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Answered(Protocol):
    """A question with its id and its gold answers."""

    @property
    def id(self) -> str: ...
    @property
    def answers(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class SquadScore:
    """Scores in percent over `total` questions, `missing` of which had no prediction."""

    exact_match: float
    f1: float
    total: int
    missing: int


def normalize_answer(text: str) -> str:
    """Return the text in lower case, without ASCII punctuation, English articles, extra space."""
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def answer_exact(prediction: str, golds: Sequence[str], *, null: bool = False) -> float:
    """Return 1.0 when the prediction equals a gold answer after normalization, else 0.0."""
    normal = normalize_answer(prediction)
    return float(any(normal == gold for gold in _normal_golds(golds, null)))


def answer_f1(prediction: str, golds: Sequence[str], *, null: bool = False) -> float:
    """Return the best F1 between the words of the prediction and of a gold answer, 0 to 1."""
    words = normalize_answer(prediction).split()
    each = (_word_f1(words, gold.split(), null) for gold in _normal_golds(golds, null))
    return max(each, default=0.0)


def _normal_golds(golds: Sequence[str], null: bool) -> list[str]:
    normal = [normalize_answer(gold) for gold in golds]
    return [gold for gold in normal if gold] or [""] if null else normal


def evaluate_predictions(
    examples: Iterable[Answered], predictions: Mapping[str, str]
) -> SquadScore:
    """Score predictions by question id; a missing prediction counts as wrong.

    Raises QualaError when there are no questions.
    """
    total = missing = 0
    exact = f1 = 0.0
    for example in examples:
        total += 1
        prediction = predictions.get(example.id)
        if prediction is None:
            missing += 1
            continue
        exact += answer_exact(prediction, example.answers)
        f1 += answer_f1(prediction, example.answers)
    if total == 0:
        raise QualaError("SQuAD scores need at least one question, got none.")
    return SquadScore(100.0 * exact / total, 100.0 * f1 / total, total, missing)


NULL_METRICS = tuple(
    f"{part}{name}" for part in ("", "has_answer_", "no_answer_") for name in ("f1", "exact_match")
)
"""The scores of SQuAD 2.0: of all questions, and of those with and without an answer."""
_SCORERS = {"exact_match": answer_exact, "f1": answer_f1}


def evaluate_null_predictions(
    examples: Iterable[Answered],
    predictions: Mapping[str, str],
    *,
    na_probs: Mapping[str, float] | None = None,
    na_prob_threshold: float = 1.0,
) -> dict[str, float]:
    """Score predictions by question id as SQuAD 2.0 does, in percent; "" is no answer.

    Returns `exact_match` and `f1`, the same of the questions with (`has_answer_f1`, ...) and
    without an answer (`no_answer_f1`, ...), and the `total` of each. A question above the
    threshold in `na_probs` counts as answered by "", whatever its prediction is; with `na_probs`
    the `best_f1` that a threshold could reach, the threshold, and both for the exact match are
    returned too. A missing prediction counts as wrong; the official evaluator ends at one. Raises
    QualaError when there are no questions, and for a prediction that `na_probs` lacks.
    """
    golds = {example.id: example.answers for example in examples}
    if not golds:
        raise QualaError("SQuAD scores need at least one question, got none.")
    said = {one: predictions[one] for one in golds if one in predictions}
    lacking = (
        None if na_probs is None else next((one for one in said if one not in na_probs), None)
    )
    if lacking is not None:
        raise QualaError(f"The probabilities of no answer lack the question `{lacking}`.")
    parts = {
        "": list(golds),
        "has_answer_": [one for one in golds if golds[one]],
        "no_answer_": [one for one in golds if not golds[one]],
    }
    found: dict[str, float] = {}
    for name, scorer in _SCORERS.items():
        scores = {one: scorer(text, golds[one], null=True) for one, text in said.items()}
        final = dict(scores)
        if na_probs is not None:
            above = [one for one in said if na_probs[one] > na_prob_threshold]
            final |= {one: float(not golds[one]) for one in above}
            best = _best_official(said, scores, na_probs, golds)
            found |= {f"best_{name}": best[0], f"best_{name}_threshold": best[1]}
        for part, ids in parts.items():
            if ids:
                found[f"{part}{name}"] = 100.0 * sum(final.get(one, 0.0) for one in ids) / len(ids)
    totals = {f"{part}total": len(ids) for part, ids in parts.items()}
    return found | totals | {"missing": len(golds) - len(said)}


def _best_official(
    said: Mapping[str, str],
    scores: Mapping[str, float],
    na_probs: Mapping[str, float],
    golds: Mapping[str, Sequence[str]],
) -> tuple[float, float]:
    """Return the best score and its threshold, by the official rule (`find_best_thresh`).

    With no better threshold than that which answers nothing, it is 0 by that rule.
    """
    best = score = float(sum(not answers for answers in golds.values()))
    threshold = 0.0
    for one in sorted(na_probs, key=lambda one: na_probs[one]):
        if one in scores:
            score += scores[one] if golds[one] else -float(bool(said[one]))
            if score > best:
                best, threshold = score, na_probs[one]
    return 100.0 * best / len(golds), threshold


def best_null_threshold(differences: ArrayLike, answered: ArrayLike, null: ArrayLike) -> float:
    """Return the threshold with the highest sum of scores; questions above it are not answered.

    Of each question (N,): how far no answer is ahead of the best one, its score if it is answered
    and its score if not. It is the official rule, with two cases mended: equal differences are
    taken together, and where answering nothing is best the threshold is below all of them.
    Without questions it is 0.
    """
    ahead = np.asarray(differences, dtype=np.float64)
    if not ahead.size:
        return 0.0
    order = np.argsort(ahead, kind="stable")
    ahead, gain = ahead[order], (np.asarray(answered) - np.asarray(null))[order].cumsum()
    last = np.append(ahead[1:] > ahead[:-1], True)  # of equal ones
    best = int(np.where(last & np.isfinite(ahead), gain, -np.inf).argmax())
    if not np.isfinite(ahead[best]):  # no question has an answer to give
        return 0.0
    return float(ahead[best] if gain[best] > 0 else np.nextafter(ahead[0], -np.inf))


def _word_f1(prediction: list[str], gold: list[str], null: bool) -> float:
    if null and not (prediction and gold):
        return float(prediction == gold)
    same = sum((Counter(prediction) & Counter(gold)).values())
    if same == 0:
        return 0.0
    precision = 1.0 * same / len(prediction)
    recall = 1.0 * same / len(gold)
    return (2 * precision * recall) / (precision + recall)
