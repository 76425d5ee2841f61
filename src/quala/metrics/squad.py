"""Exact match and F1 of SQuAD 1.1, equal to the official evaluator's to the last digit.

Not from torchmetrics: it computes in float32, and if both answers are empty after normalization,
its F1 is 1, where the official evaluator gives 0.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

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


def answer_exact(prediction: str, golds: Sequence[str]) -> float:
    """Return 1.0 when the prediction equals a gold answer after normalization, else 0.0."""
    normal = normalize_answer(prediction)
    return float(any(normal == normalize_answer(gold) for gold in golds))


def answer_f1(prediction: str, golds: Sequence[str]) -> float:
    """Return the best F1 between the words of the prediction and of a gold answer, 0 to 1."""
    words = normalize_answer(prediction).split()
    return max((_word_f1(words, normalize_answer(gold).split()) for gold in golds), default=0.0)


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


def _word_f1(prediction: list[str], gold: list[str]) -> float:
    same = sum((Counter(prediction) & Counter(gold)).values())
    if same == 0:
        return 0.0
    precision = 1.0 * same / len(prediction)
    recall = 1.0 * same / len(gold)
    return (2 * precision * recall) / (precision + recall)
