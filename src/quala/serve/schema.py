"""Requests and responses as JSON, converted from and to queries and replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from quala.errors import QualaError
from quala.runtime.card import MOST_ANSWERS, Budget, Query, check_words
from quala.runtime.prediction import TextQuery

T = TypeVar("T")
Q = TypeVar("Q")
MOST_LAYERS = 256
MOST_CHARACTERS = 16 * MOST_LAYERS
"""Of the heads and neurons of all layers."""


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Question(_In):
    question: str = Field(description="The question.")
    context: str = Field(description="The text that holds the answer.")
    top_k: int = Field(
        1, ge=1, le=MOST_ANSWERS, description="Largest number of answers; the best is first."
    )


class _Text(_In):
    text: str = Field(description="The text.")


class _Pair(_Text):
    pair: str | None = Field(None, description="The second text, for a model of pairs.")


class _Labeled(_Pair):
    top_k: int = Field(
        1, ge=0, le=MOST_ANSWERS, description="Largest number of labels, best first; 0 for all."
    )


class _Passages(_In):
    query: str = Field(description="What each passage is compared with.")
    passages: list[str] = Field(
        min_length=1, fail_fast=True, description="The texts that are ranked."
    )
    top_k: int | None = Field(
        None, ge=1, description="Largest number of passages, best first; null for all."
    )


class _Limits(_In):
    budget_ms: float | None = Field(None, description="Largest time, in milliseconds.")
    budget_macs: float | None = Field(None, description="Largest number of multiply-accumulates.")
    keep: float | None = Field(
        None, description="Share of the full length's work, above 0 and at most 1."
    )
    lengths: list[int] | None = Field(
        None, max_length=MOST_LAYERS, description="Tokens that each layer keeps, as in the card."
    )
    layers: str | None = Field(
        None,
        max_length=MOST_CHARACTERS,
        description="Heads and neurons of each layer, as in the card; with `lengths`, or alone.",
    )
    strict: bool = Field(
        False,
        description="Refuse a budget that no point meets; else the fastest point answers.",
    )

    def budget(self, default_ms: float | None) -> Budget:
        """Return the budget, `default_ms` where none is named. Raises QualaError."""
        limits = (self.budget_ms, self.budget_macs, self.keep, self.lengths, self.layers)
        return Budget(
            ms=default_ms if all(limit is None for limit in limits) else self.budget_ms,
            macs=self.budget_macs,
            keep=self.keep,
            lengths=self.lengths,
            layers=self.layers,
            strict=self.strict,
        )


class _Surviving(_Limits):
    survivors: bool = Field(
        False, description="Also return which characters of the text each layer kept."
    )


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


# The fields of the last base come first.
class QueryIn(_Surviving, _Question):
    """One question about one context; at most one of the four budgets."""

    model_config = _example(
        question="Who designed the engine?",
        context="Charles Babbage designed the engine in 1837.",
        budget_ms=10,
        top_k=3,
    )

    def query(self, default_ms: float | None) -> Query:
        """Return the query, at `default_ms` where it names no budget. Raises QualaError."""
        return Query(
            question=self.question,
            context=self.context,
            budget=self.budget(default_ms),
            top_k=self.top_k,
            survivors=self.survivors,
        )


class TextIn(_Surviving, _Text):
    """One text; at most one of the four budgets."""

    model_config = _example(text="Charles Babbage designed the engine in London.", budget_ms=5)

    def query(self, default_ms: float | None) -> TextQuery:
        """Return the query, at `default_ms` where it names no budget. Raises QualaError."""
        return TextQuery(
            text=self.text,
            pair=getattr(self, "pair", None),
            budget=self.budget(default_ms),
            top_k=getattr(self, "top_k", 1),
            survivors=self.survivors,
        )


class PairIn(TextIn, _Pair):
    """One text, or two; at most one of the four budgets."""

    model_config = _example(text="A man plays.", pair="Somebody makes music.", budget_ms=5)


class LabeledIn(PairIn, _Labeled):
    """One text, or two, and how many labels are wanted; at most one of the four budgets."""

    model_config = _example(text="A joy to watch from start to end.", budget_ms=5, top_k=0)


class RankIn(_Limits, _Passages):
    """One query and its passages; at most one of the four budgets, which holds for each pair."""

    model_config = _example(
        query="Who designed the engine?",
        passages=["Ada Lovelace wrote a program.", "Charles Babbage designed the engine."],
        budget_ms=5,
    )

    def compared(self, default_ms: float | None) -> list[TextQuery]:
        """Return the query with each passage. Raises QualaError, which names the passage."""
        check_words("query", self.query)
        budget = self.budget(default_ms)
        return each(
            "passages",
            self.passages,
            lambda passage: TextQuery(text=self.query, pair=passage, budget=budget, top_k=0),
        )


class TextRankIn(RankIn):
    """One query and its passages; at most one of the four budgets, which holds for each text."""

    def compared(self, default_ms: float | None) -> list[TextQuery]:
        """Return the query, then each passage. Raises QualaError, which names the passage."""
        check_words("query", self.query)
        budget = self.budget(default_ms)
        made = each("passages", self.passages, lambda one: TextQuery(text=one, budget=budget))
        return [TextQuery(text=self.query, budget=budget), *made]


class LabelRankIn(RankIn):
    """One query and its passages; at most one of the four budgets, which holds for each pair."""

    label: str | None = Field(
        None, description="The label whose probability counts; null for that of two that is yes."
    )


class BatchIn(_In, Generic[T]):
    """Several queries; either all get a reply or none."""

    queries: list[T] = Field(min_length=1, fail_fast=True, description="The queries.")


def each(name: str, given: Sequence[T], make: Callable[[T], Q]) -> list[Q]:
    """Return what `make` makes of each. Raises QualaError, which names the place in `name`."""
    made = []
    for place, one in enumerate(given):
        try:
            made.append(make(one))
        except QualaError as error:
            raise QualaError(f"`{name}[{place}]`: {error}") from error
    return made


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class AnswerOut(_Out):
    """A piece of the context."""

    text: str = Field(description="The answer.")
    score: float = Field(description="Sum of the start's and the end's logit.")
    probability: float = Field(description="Its share among the answers considered.")
    start: int = Field(description="First character (Unicode code point) in the context.")
    end: int = Field(description="Character after the last one.")


class LayerOut(_Out):
    """What a layer kept of a text."""

    kept: int = Field(description="Tokens that the layer kept.")
    tokens: int = Field(description="Tokens of the input.")
    spans: list[tuple[int, int]] = Field(description="Their character ranges in the text.")


class _Work(_Out):
    lengths: list[int] | None = Field(description="Tokens kept per layer; null drops nothing.")
    units: str | None = Field(
        None, description="Heads and neurons of each layer, the card's `layers`; null for all."
    )
    windows: int = Field(description="Overlapping pieces of the text.")
    milliseconds: float = Field(
        description="Time of its work and of what ran together with it, without waiting."
    )
    note: str | None = Field(None, description="Which budget was not met, or how much was cut.")
    layers: list[LayerOut] = Field([], description="One entry per layer, if `survivors` was true.")


class _Answers(_Out):
    answers: list[AnswerOut]
    no_answer: float | None = Field(
        None,
        description="Probability that the context does not answer the question; no answers above "
        "one half, null for a model that always answers.",
    )


class ReplyOut(_Work, _Answers):
    """Answers, the best first, and how they were computed."""


class _PairWork(_Work):
    pair_layers: list[LayerOut] = Field([], description="What the layers kept of the pair.")


class LabelOut(_Out):
    """A label and its probability."""

    label: str = Field(description="The name; a number where the model knows no names.")
    probability: float = Field(description="From 0 to 1; those of all labels add up to 1.")


class _Label(_Out):
    label: str = Field(description="The most probable label.")
    scores: list[LabelOut] = Field(description="The `top_k` most probable, best first.")


class ClassOut(_PairWork, _Label):
    """The label of a text, and how it was computed."""


class _Value(_Out):
    value: float = Field(description="What the model says of the text or the pair.")


class ValueOut(_PairWork, _Value):
    """The value of a text, and how it was computed."""


class TagOut(_Out):
    """A part of the text with a label."""

    label: str = Field(description="Its label.")
    start: int = Field(description="First character (Unicode code point) in the text.")
    end: int = Field(description="Character after the last one.")
    text: str = Field(description="Its characters.")
    probability: float = Field(description="The mean probability of its words' labels.")


class _Tags(_Out):
    tags: list[TagOut]


class TagsOut(_Work, _Tags):
    """The entities of a text, in their order, and how they were computed."""


class _Vector(_Out):
    embedding: list[float] = Field(description="A vector of length 1.")


class EmbeddingOut(_Work, _Vector):
    """The embedding of a text, and how it was computed."""


class RankedOut(BaseModel):
    """A passage of the request."""

    place: int = Field(description="Its place in `passages`, from 0.")
    score: float = Field(description="The higher, the better.")
    note: str | None = Field(None, description="Which budget was not met, or how much was cut.")


class RankOut(BaseModel):
    """The passages, best first."""

    ranking: list[RankedOut]


class BatchOut(BaseModel, Generic[T]):
    """One reply per query, in their order."""

    replies: list[T]


class ErrorOut(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="One sentence.")


class StatusOut(BaseModel):
    """Whether the service takes requests."""

    status: str = Field(description="`ok`, or `stopping`.")


class HealthOut(StatusOut):
    """Whether the service takes requests, and how many wait."""

    model: str = Field(description="The model's name.")
    waiting: int = Field(description="Windows that wait for the model.")
