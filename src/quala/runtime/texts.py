"""Predict with an export what texts and pairs are: classes, values, entities, embeddings."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from quala.data.decode import NotFinite
from quala.data.features import FeatureSet
from quala.data.task import Classes, Value
from quala.data.tokenize import text_features
from quala.errors import QualaError, unknown
from quala.runtime.card import Budget
from quala.runtime.prediction import LabelScore, Prediction, Ranked, Tag, TextQuery
from quala.runtime.predictor import Predictor, Work

Floats = NDArray[np.float64]
OUTSIDE = "O"
"""The label of words that belong to no entity."""
_ALONE = r"\p{Han}\p{Hiragana}\p{Katakana}"
_INNER = rf"[^\s\p{{P}}\p{{Sc}}{_ALONE}]"
WORDS = regex.compile(rf"{_INNER}(?:[^\s{_ALONE}]*{_INNER})?|\S")
"""Words of a text that is tagged, as data sets have them: `U.S`, `well-known`, `$`, `1,000`."""


class TextPredictor(Predictor[TextQuery, Prediction]):
    """An export for texts or pairs in memory; safe to use from several threads."""

    pairs = True

    def predict(
        self,
        text: str,
        pair: str | None = None,
        *,
        budget_ms: float | None = None,
        budget_macs: float | None = None,
        keep: float | None = None,
        lengths: Sequence[int] | None = None,
        strict: bool = False,
        top_k: int = 1,
    ) -> Prediction:
        """Predict for one text or pair within at most one kind of budget.

        What is longer than the model reads is cut, and the prediction's note says so. `top_k`
        labels are returned, 0 for all. Raises QualaError for text without words, for a budget
        that cannot be one, and under `strict` for one below the cheapest point.
        """
        budget = Budget(ms=budget_ms, macs=budget_macs, keep=keep, lengths=lengths, strict=strict)
        query = TextQuery(text=text, pair=pair, budget=budget, top_k=top_k)
        return self.predict_batch([query])[0]

    def rank(
        self,
        query: str,
        passages: Sequence[str],
        *,
        budget: Budget | None = None,
        label: str | None = None,
    ) -> list[Ranked]:
        """Return all passages, the best first, equal ones in their order.

        The score is the value of a regressor, or a classifier's probability of `label`, which may
        be left out where one label is a known `yes`, such as `relevant` or the 1 of 0 and 1. The
        budget holds for each passage. Raises QualaError as `predict`, and for models that give
        neither.
        """
        score = self.scorer(label)
        asked = [
            TextQuery(text=query, pair=one, budget=budget or Budget(), top_k=0) for one in passages
        ]
        found = [
            Ranked(place, score(one), one) for place, one in enumerate(self.predict_batch(asked))
        ]
        return sorted(found, key=lambda one: -one.score)

    def scorer(self, label: str | None) -> Callable[[Prediction], float]:
        """Return what the score of a passage is. Raises QualaError for an unknown label."""
        raise QualaError(f"A model for {self.task} cannot rank passages.")

    @abstractmethod
    def said(self, work: Work[TextQuery]) -> dict[str, Any]:
        """Return the fields of the prediction that the logits are for."""

    def outputs(self, work: Work[TextQuery]) -> list[Floats]:
        """Return the logits of each window. Raises NotFinite for those of a broken model."""
        found = [work.logits[row].astype(np.float64) for row in work.rows]
        if not all(np.isfinite(one).all() for one in found):
            raise NotFinite("The model gives values that are NaN or infinite: it is damaged.")
        return found

    def features(self, queries: Sequence[TextQuery]) -> tuple[Sequence[int], FeatureSet]:
        """Return the tokens that each text has without a cut, and the inputs of the model.

        Raises QualaError for text in which the tokenizer finds nothing but special tokens.
        """
        if not self.pairs and any(query.pair is not None for query in queries):
            raise QualaError(f"A model for {self.task} reads one text, got a pair.")
        texts = [(query.text, query.pair) for query in queries]
        features, whole = text_features(
            texts, self.tokenizer, max_length=self.facts.sequence_length, overlap=self.overlap
        )
        self._check_words(features, queries)
        return whole, features

    def finish(self, work: Work[TextQuery]) -> Prediction:
        started = time.perf_counter()
        layers = self.facts.arch.layers
        return Prediction(
            **self.said(work),
            lengths=work.point.lengths.lengths,
            windows=len(work.rows),
            note=work.note,
            layers=work.layers(layers, pair=False),
            pair_layers=() if work.query.pair is None else work.layers(layers, pair=True),
            milliseconds=1000 * (work.seconds + time.perf_counter() - started),
        )

    def cut(self, query: TextQuery, example: Any, features: FeatureSet, row: int) -> str | None:
        tokens = int(features.lengths[row])
        if example <= tokens or self.overlap is not None:
            return None
        what = "The text has" if query.pair is None else "The two texts have"
        return f"{what} {example} tokens, of which the model reads {tokens}."

    @property
    def overlap(self) -> int | None:
        """Tokens that the windows of a long text share; None: it is cut to one window."""
        return None

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in the order of the outputs; numbers where they have no names."""
        return self.facts.labels or tuple(map(str, range(self.facts.arch.outputs)))

    def _check_words(self, features: FeatureSet, queries: Sequence[TextQuery]) -> None:
        words = ~np.isin(features.input_ids, self._special)
        for row, number in enumerate(features.example.tolist()):
            query = queries[number]
            inside = words[features.offsets[row] : features.offsets[row + 1]]
            first = int(features.segment_one[row])
            if not inside[:first].any():
                raise QualaError("The tokenizer finds no words in the text.")
            if query.pair is not None and not inside[first:].any():
                raise QualaError("The tokenizer finds no words in the pair.")


class Classifier(TextPredictor):
    """A classification export: labels with probabilities."""

    task = Classes.kind

    def said(self, work: Work[TextQuery]) -> dict[str, Any]:
        shares = softmax(self.outputs(work)[0])
        best = np.argsort(-shares, kind="stable")[: work.query.top_k or None]
        scores = tuple(LabelScore(self.labels[one], float(shares[one])) for one in best)
        return {"label": scores[0].label, "scores": scores}

    def scorer(self, label: str | None) -> Callable[[Prediction], float]:
        from quala.data.labels import yes_of  # reads data, for which it imports more than this

        wanted = yes_of(self.labels) if label is None else label
        if wanted is None:
            raise QualaError(
                f"Which label to rank by? The model has {', '.join(self.labels)}: give `label`."
            )
        if wanted not in self.labels:
            raise unknown("label", wanted, self.labels)
        return lambda one: {score.label: score.probability for score in one.scores}[wanted]


class Regressor(TextPredictor):
    """A regression export: one number."""

    task = Value.kind

    def said(self, work: Work[TextQuery]) -> dict[str, Any]:
        return {"value": float(self.outputs(work)[0][0])}

    def scorer(self, label: str | None) -> Callable[[Prediction], float]:
        if label is not None:
            raise QualaError(f"A regressor ranks by its value, it has no label `{label}`.")
        return lambda one: one.value or 0.0


class Tagger(TextPredictor):
    """A token-classification export: entities by characters.

    Words are what stands between blanks, with the punctuation at their edges as words of their
    own, and each Chinese or Japanese character. A word has the label of its first token, read in
    the window with the most text around it. Words of one label are an entity: `B-` begins it,
    `I-` goes on; a label without these prefixes is one of single words, and `O` is none.
    """

    task = "token-classification"
    pairs = False

    @property
    def overlap(self) -> int | None:
        return self.facts.doc_stride

    def said(self, work: Work[TextQuery]) -> dict[str, Any]:
        text = work.query.text
        words = [match.span() for match in WORDS.finditer(text)]
        found = [one for one in self._words(work, np.array(words)) if one is not None]
        return {"tags": tuple(_entities(text, found))}

    def _words(self, work: Work[TextQuery], words: NDArray[np.int64]) -> Iterator[Tag | None]:
        """Yield the label of each word (W, 2), None for one that no token begins in."""
        logits = np.zeros((len(words), len(self.labels)))
        margins = np.full(len(words), -1.0)
        spans = work.features.char_spans
        assert spans is not None  # features for inference have them
        for place, (row, outputs) in enumerate(zip(work.rows, self.outputs(work), strict=True)):
            base = int(work.features.offsets[row])
            marks = spans[base : base + work.tokens[place]]
            inside = np.flatnonzero(marks[:, 0] < marks[:, 1])
            starts, ends = marks[inside].T
            token = np.searchsorted(ends, words[:, 0], side="right")  # the first that ends later
            known = np.minimum(token, len(inside) - 1)
            begins = (token > 0) | (starts[known] <= words[:, 0]) | (place == 0)
            begins &= (token < len(inside)) & (starts[known] < words[:, 1])
            after = len(inside) - token if place < len(work.rows) - 1 else np.inf
            margin = np.where(begins, np.minimum(token if place else np.inf, after), -1.0)
            better = margin > margins
            logits[better] = outputs[inside[known[better]]]
            margins = np.maximum(margins, margin)
        shares = softmax(logits)
        for (start, end), share, margin in zip(words.tolist(), shares, margins, strict=True):
            best = int(share.argmax())
            label = self.labels[best]
            yield Tag(label, start, end, "", float(share[best])) if margin >= 0 else None


def _entities(text: str, words: Sequence[Tag]) -> Iterator[Tag]:
    """Yield entities of the labels of words; their texts are still to be set."""
    groups: list[list[Tag]] = []
    for word in words:
        begin, kind = _kind(word.label)
        if not begin and groups and groups[-1] and _kind(groups[-1][0].label)[1] == kind:
            groups[-1].append(word)
        else:
            groups.append([] if word.label == OUTSIDE else [word])
    for group in filter(None, groups):
        start, end = group[0].start, group[-1].end
        share = sum(one.probability for one in group) / len(group)
        yield Tag(_kind(group[0].label)[1], start, end, text[start:end], share)


def _kind(label: str) -> tuple[bool, str]:
    """Return whether a label begins an entity, and the kind of the entity."""
    prefix, dash, kind = label.partition("-")
    return (prefix == "B", kind) if dash and prefix in ("B", "I") else (True, label)


class Embedder(TextPredictor):
    """An embedding export: one vector of length 1 for each text."""

    task = "embedding"
    pairs = False

    def embed(self, texts: Sequence[str], *, budget: Budget | None = None) -> NDArray[np.float32]:
        """Return the embeddings (N, H) of texts, each within a budget.

        Raises QualaError as `predict`.
        """
        asked = [TextQuery(text=text, budget=budget or Budget()) for text in texts]
        found = [one.embedding for one in self.predict_batch(asked)]
        width = len(found[0] or ()) if found else self.facts.arch.hidden
        return np.array(found, dtype=np.float32).reshape(len(texts), width)

    def said(self, work: Work[TextQuery]) -> dict[str, Any]:
        vector = self.outputs(work)[0]
        length = np.linalg.norm(vector)
        return {"embedding": tuple((vector / (length or 1.0)).tolist())}


def softmax(logits: Floats) -> Floats:
    """Return the probabilities along the last axis."""
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: Floats = shares / shares.sum(axis=-1, keepdims=True)
    return found


TEXT_PREDICTORS: tuple[type[TextPredictor], ...] = (Classifier, Regressor, Tagger, Embedder)
