"""Requests and responses as JSON, converted from and to `Query` and `Reply`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from quala.runtime.card import MOST_ANSWERS, Budget, Query

MOST_LAYERS = 256


class QueryIn(BaseModel):
    """One question about one context; at most one of the four budgets."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "question": "Who designed the engine?",
                    "context": "Charles Babbage designed the engine in 1837.",
                    "budget_ms": 10,
                    "top_k": 3,
                }
            ]
        },
    )

    question: str = Field(description="The question.")
    context: str = Field(description="The text that holds the answer.")
    budget_ms: float | None = Field(None, description="Largest time, in milliseconds.")
    budget_macs: float | None = Field(None, description="Largest number of multiply-accumulates.")
    keep: float | None = Field(
        None, description="Share of the full length's work, above 0 and at most 1."
    )
    lengths: list[int] | None = Field(
        None, max_length=MOST_LAYERS, description="Tokens that each layer keeps, as in the card."
    )
    strict: bool = Field(
        False,
        description="Refuse a budget that no point meets; else the fastest point answers.",
    )
    top_k: int = Field(
        1, ge=1, le=MOST_ANSWERS, description="Largest number of answers; the best is first."
    )
    survivors: bool = Field(
        False, description="Also return which characters of the context each layer kept."
    )

    def query(self, default_ms: float | None) -> Query:
        """Return the query, at `default_ms` where it names no budget. Raises QualaError."""
        limits = (self.budget_ms, self.budget_macs, self.keep, self.lengths)
        return Query(
            question=self.question,
            context=self.context,
            budget=Budget(
                ms=default_ms if all(limit is None for limit in limits) else self.budget_ms,
                macs=self.budget_macs,
                keep=self.keep,
                lengths=self.lengths,
                strict=self.strict,
            ),
            top_k=self.top_k,
            survivors=self.survivors,
        )


class BatchIn(BaseModel):
    """Several questions; either all are answered or none."""

    model_config = ConfigDict(extra="forbid", strict=True)

    queries: list[QueryIn] = Field(min_length=1, fail_fast=True, description="The questions.")


def _kind(body: Any) -> str:
    many = "queries" in body if isinstance(body, dict) else isinstance(body, BatchIn)
    return "batch" if many else "query"


Request = Annotated[
    Annotated[QueryIn, Tag("query")] | Annotated[BatchIn, Tag("batch")], Discriminator(_kind)
]


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
    """What a layer kept of the context."""

    kept: int = Field(description="Tokens that the layer kept.")
    tokens: int = Field(description="Tokens of the input.")
    spans: list[tuple[int, int]] = Field(description="Their character ranges in the context.")


class ReplyOut(_Out):
    """Answers, the best first, and how they were computed."""

    answers: list[AnswerOut]
    lengths: list[int] | None = Field(description="Tokens kept per layer; null drops nothing.")
    windows: int = Field(description="Overlapping pieces of the context.")
    milliseconds: float = Field(
        description="Time of its work and of what ran together with it, without waiting."
    )
    note: str | None = Field(None, description="Which budget was not met, or how much was cut.")
    layers: list[LayerOut] = Field([], description="One entry per layer, if `survivors` was true.")
    no_answer: float | None = Field(
        None,
        description="Probability that the context does not answer the question; no answers above "
        "one half, null for a model that always answers.",
    )


class BatchOut(BaseModel):
    """One reply per query, in their order."""

    replies: list[ReplyOut]


class ErrorOut(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="One sentence.")


class HealthOut(BaseModel):
    """Whether the service takes requests."""

    status: str = Field(description="`ok`, or `stopping`.")
    model: str = Field(description="The model's name.")
    waiting: int = Field(description="Windows that wait for the model.")
