"""Predict with an export what texts and pairs are: classes, values, entities, embeddings."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from quala.data.decode import NotFinite
from quala.data.features import FeatureSet
from quala.data.task import Classes, Value
from quala.data.task_tags import Tags, word_places
from quala.data.tokenize import text_features
from quala.errors import QualaError, unknown
from quala.metrics.entities import OUTSIDE, Entity, are_entity_tags, find_entities
from quala.runtime.card import Budget
from quala.runtime.prediction import LabelScore, Prediction, Ranked, Tag, TextQuery
from quala.runtime.predictor import Predictor, Work

Floats = NDArray[np.float64]
Scorer = Callable[[Sequence[Prediction]], list[float]]
"""Gives the scores of passages from all that was predicted to rank them."""
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
        layers: str | None = None,
        strict: bool = False,
        top_k: int = 1,
    ) -> Prediction:
        """Predict for one text or pair within at most one kind of budget.

        What is longer than the model reads is cut, and the prediction's note says so. `top_k`
        labels are returned, 0 for all. Raises QualaError for text without words, for a budget
        that cannot be one, and under `strict` for one below the cheapest point.
        """
        budget = Budget(
            ms=budget_ms,
            macs=budget_macs,
            keep=keep,
            lengths=lengths,
            layers=layers,
            strict=strict,
        )
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

        The score is the value of a regressor, the cosine of an embedder, or a classifier's
        probability of `label`, which may be left out where one label is a known `yes`, such as
        `relevant` or the 1 of 0 and 1. The budget holds for each passage. Raises QualaError as
        `predict`, and for models that give none of these.
        """
        scores = self.scorer(label)
        said = self.predict_batch(self.compared(query, passages, budget or Budget()))
        own = of_passages(said, len(passages))
        found = [Ranked(*one) for one in zip(range(len(own)), scores(said), own, strict=True)]
        return sorted(found, key=lambda one: -one.score)

    def compared(self, query: str, passages: Sequence[str], budget: Budget) -> list[TextQuery]:
        """Return what is predicted to rank passages, that of the passages last."""
        return [TextQuery(text=query, pair=one, budget=budget, top_k=0) for one in passages]

    def scorer(self, label: str | None) -> Scorer:
        """Return what gives the scores of passages. Raises QualaError for an unknown label."""
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
        features, whole = self.tokenized(texts)
        self._check_words(features, queries)
        return whole, features

    def tokenized(self, texts: Sequence[tuple[str, str | None]]) -> tuple[FeatureSet, list[int]]:
        """Return the features of texts, and the tokens that each has without a cut."""
        return text_features(texts, self.tokenizer, max_length=self.facts.sequence_length)

    def finish(self, work: Work[TextQuery]) -> Prediction:
        started = time.perf_counter()
        layers = self.facts.arch.layers
        return Prediction(
            **self.said(work),
            lengths=work.point.lengths.lengths,
            windows=len(work.rows),
            note=work.note,
            units=work.point.units,
            layers=work.layers(layers, pair=False),
            pair_layers=() if work.query.pair is None else work.layers(layers, pair=True),
            milliseconds=1000 * (work.seconds + time.perf_counter() - started),
        )

    def cut(self, query: TextQuery, example: Any, features: FeatureSet, row: int) -> str | None:
        tokens = int(features.lengths[row])
        if example <= tokens:
            return None
        what = "The text has" if query.pair is None else "The two texts have"
        return f"{what} {example} tokens, of which the model reads {tokens}."

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in the order of the outputs; numbers where they have no names."""
        return self.facts.labels or tuple(map(str, range(self.facts.arch.outputs)))

    def _check_words(self, features: FeatureSet, queries: Sequence[TextQuery]) -> None:
        # An emoji that the vocabulary lacks is a word, as it is in training.
        special = [one for one in self._special if one != self.tokenizer.unknown]
        words = ~np.isin(features.input_ids, special)
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

    def scorer(self, label: str | None) -> Scorer:
        from quala.data.labels import yes_of  # reads data, for which it imports more than this

        wanted = yes_of(self.labels) if label is None else label
        if wanted is None:
            raise QualaError(
                f"Which label to rank by? The model has {', '.join(self.labels)}: give `label`."
            )
        if wanted not in self.labels:
            raise unknown("label", wanted, self.labels)
        return lambda said: [
            next(score.probability for score in one.scores if score.label == wanted)
            for one in said
        ]


class Regressor(TextPredictor):
    """A regression export: one number."""

    task = Value.kind

    def said(self, work: Work[TextQuery]) -> dict[str, Any]:
        return {"value": float(self.outputs(work)[0][0])}

    def scorer(self, label: str | None) -> Scorer:
        if label is not None:
            raise QualaError(f"A regressor ranks by its value, it has no label `{label}`.")
        return lambda said: [one.value or 0.0 for one in said]


class Tagger(TextPredictor):
    """A token-classification export: entities by characters.

    Words are what stands between blanks, with the punctuation at their edges as words of their
    own, and each Chinese or Japanese character. A word has the label of its first token, read in
    the window with the most text around it. Entities are those that `quala.metrics` finds in the
    labels of all words that have a token, where these mark entities (`B-PER`); else each word
    whose label is not `O` is one.
    """

    task = Tags.kind
    pairs = False

    def tokenized(self, texts: Sequence[tuple[str, str | None]]) -> tuple[FeatureSet, list[int]]:
        return text_features(
            texts,
            self.tokenizer,
            max_length=self.facts.sequence_length,
            overlap=self.facts.doc_stride,
            words=[_words(text) for text, _ in texts],
        )

    def cut(self, query: TextQuery, example: Any, features: FeatureSet, row: int) -> str | None:
        return None  # a long text has several windows

    def said(self, work: Work[TextQuery]) -> dict[str, Any]:
        text, features = work.query.text, work.features
        words, outputs = _words(text), self.outputs(work)
        assert features.words is not None  # as `words` gives them
        windows = [
            features.words[features.offsets[row] : features.offsets[row + 1]] for row in work.rows
        ]
        places = word_places(windows, len(words))
        words, places = words[places[:, 0] >= 0], places[places[:, 0] >= 0]
        logits = [outputs[window][token] for window, token in places.tolist()]
        shares = softmax(np.array(logits).reshape(-1, len(self.labels)))
        names, sure = [self.labels[best] for best in shares.argmax(axis=1)], shares.max(axis=1)
        if are_entity_tags(self.labels):
            found = find_entities(names)
        else:
            found = [Entity(one, at, at + 1) for at, one in enumerate(names) if one != OUTSIDE]
        tags = []
        for kind, first, after in found:
            start, end = int(words[first, 0]), int(words[after - 1, 1])
            share = float(sure[first:after].mean())
            tags.append(Tag(kind, start, end, text[start:end], share))
        return {"tags": tuple(tags)}


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
        length = np.linalg.norm(vector) or 1.0
        short = (vector / length).astype(np.float32).astype(str)  # as few digits as they have
        return {"embedding": tuple(map(float, short))}

    def compared(self, query: str, passages: Sequence[str], budget: Budget) -> list[TextQuery]:
        return [TextQuery(text=text, budget=budget) for text in (query, *passages)]

    def scorer(self, label: str | None) -> Scorer:
        if label is not None:
            raise QualaError(f"An embedder ranks by the cosine, it has no label `{label}`.")
        return cosines


def of_passages(said: Sequence[Prediction], count: int) -> list[Prediction]:
    """Return the last `count` predictions, which note as well what the others do: of the query."""
    queries, own = said[: len(said) - count], said[len(said) - count :]
    notes = [f"Of the query: {one.note}" for one in queries if one.note]
    return [
        replace(one, note=" ".join([*notes, *([one.note] if one.note else [])]) or None)
        for one in own
    ]


def cosines(said: Sequence[Prediction]) -> list[float]:
    """Return the cosine of the first embedding with each of the others."""
    query, *passages = np.array([one.embedding for one in said])
    return [float(query @ one) for one in passages]


def _words(text: str) -> NDArray[np.int32]:
    """Return the characters (W, 2) of the words of a text."""
    return np.array([match.span() for match in WORDS.finditer(text)], np.int32).reshape(-1, 2)


def softmax(logits: Floats) -> Floats:
    """Return the probabilities along the last axis."""
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: Floats = shares / shares.sum(axis=-1, keepdims=True)
    return found


TEXT_PREDICTORS: tuple[type[TextPredictor], ...] = (Classifier, Regressor, Tagger, Embedder)
