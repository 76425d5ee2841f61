"""Toys that stand for models of texts: they predict from words, in windows of one text each."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quala.errors import QualaError
from quala.runtime.card import Budget, Layer
from quala.runtime.prediction import LabelScore, Prediction, Tag, TextQuery
from quala.runtime.texts import Scorer, cosines

LENGTHS = ((64, 24, 8), (64, 48, 32), (64, 64, 64))
METRICS = {
    "classification": "accuracy",
    "regression": "pearson_spearman",
    "token-classification": "f1",
    "embedding": "spearman",
}
GOOD, BAD = {"joy", "good", "best", "sings"}, {"thin", "bad", "watch"}


@dataclass(eq=False)
class TextWork:
    """A text or pair, one window."""

    query: TextQuery
    tokens: list[int]
    group: object
    done: bool = False


class ToyPredictor:
    """Predicts for one task; `batches` are the texts that ran together, `budgets` theirs.

    It refuses the text `refuse`, fails on `fail`, waits while `gate` is closed, and 4 ms buy the
    cheapest point.
    """

    def __init__(self, task: str) -> None:
        self.task = task
        self.batches: list[list[str]] = []
        self.budgets: list[Budget] = []
        self.gate = threading.Event()
        self.gate.set()
        self.card: dict[str, Any] = {
            "name": f"toy-{task}",
            "task": task,
            "metric": METRICS[task],
            "precision": "int8",
            "front": [
                {
                    "lengths": list(lengths),
                    METRICS[task]: 80 + 5 * place,
                    "gmacs": 0.2 + 0.3 * place,
                    "ms": {"32": 1.0 + place, "128": 3.0 + 2 * place},
                }
                for place, lengths in enumerate(LENGTHS)
            ],
        }

    def prepare(self, queries: Sequence[TextQuery]) -> list[TextWork]:
        if any(query.text == "refuse" for query in queries):
            raise QualaError("The toy refuses.")
        return [TextWork(one, [len(_words(one)) + 2], one.budget) for one in queries]

    def run(self, windows: Sequence[tuple[TextWork, int]]) -> None:
        self.budgets += [work.query.budget for work, _ in windows]
        self.batches.append([work.query.text for work, _ in windows])
        assert self.gate.wait(30)
        for work, _ in windows:
            if work.query.text == "fail":
                raise RuntimeError("a secret of the toy")
            work.done = True

    def finish(self, work: TextWork) -> Prediction:
        assert work.done
        query = work.query
        lengths = LENGTHS[0] if query.budget.ms == 4 else query.budget.lengths
        layers = [_layers(query, lengths or LENGTHS[-1], pair) for pair in (False, True)]
        shown = query.survivors
        return Prediction(
            **self._said(query),
            lengths=tuple(lengths) if lengths else None,
            windows=1,
            milliseconds=2.5,
            note="The text was cut." if len(_words(query)) > 60 else None,
            layers=layers[0] if shown else (),
            pair_layers=layers[1] if shown and query.pair else (),
        )

    def scorer(self, label: str | None) -> Scorer:
        if label not in (None, "positive"):
            raise QualaError(f"The toy has no label `{label}`.")
        if self.task == "embedding":
            return cosines
        return lambda said: [
            sum(s.probability for s in one.scores if s.label == "positive") for one in said
        ]

    def _said(self, query: TextQuery) -> dict[str, Any]:
        good = sum(word.lower() in GOOD for word in _words(query))
        bad = sum(word.lower() in BAD for word in _words(query))
        if self.task == "regression":
            shared = {*_words(query, pair=False)} & {*_words(query, pair=True)}
            return {"value": float(len(shared))}
        if self.task == "token-classification":
            names = re.finditer(r"[A-Z]\w+(?: [A-Z]\w+)*", query.text)
            return {"tags": tuple(Tag("NAME", *m.span(), m.group(), 0.9) for m in names)}
        if self.task == "embedding":
            counts = [query.text.count(letter) for letter in "aeiou"]
            length = math.hypot(*counts) or 1.0
            return {"embedding": tuple(count / length for count in counts)}
        raw = {"positive": good, "negative": bad, "neutral": 0}
        total = sum(math.exp(value) for value in raw.values())
        scores = [LabelScore(name, math.exp(value) / total) for name, value in raw.items()]
        scores.sort(key=lambda one: -one.probability)
        top = query.top_k or len(scores)
        return {"label": scores[0].label, "scores": tuple(scores[:top])}


def _words(query: TextQuery, pair: bool | None = None) -> list[str]:
    texts = {None: f"{query.text} {query.pair or ''}", False: query.text, True: query.pair or ""}
    return re.findall(r"\w+", texts[pair])


def _layers(query: TextQuery, lengths: Sequence[int], pair: bool) -> tuple[Layer, ...]:
    text = (query.pair or "") if pair else query.text
    spans = [match.span() for match in re.finditer(r"\w+", text)]
    every = len(_words(query)) + 2
    layers = []
    for length in lengths:
        share = length / LENGTHS[-1][0]
        step = max(1, round(1 / share))
        kept = tuple(spans[::step])
        layers.append(Layer(max(1, round(every * share)), every, kept))
    return tuple(layers)
