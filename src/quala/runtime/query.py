"""What an answering model is asked and what it replies, whatever runs it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from quala.data.decode import Answer
from quala.errors import QualaError

__all__ = ["Answer", "Budget", "Layer", "Query", "Reply"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one input may cost: at most one of milliseconds, MACs, share of the work, lengths.

    Nothing given means full length. `keep` is a share of the full length's MACs. Where no point
    of the front is cheap enough the fastest answers, unless `strict` forbids it. Raises QualaError
    for two limits at once and for numbers that are no limit.
    """

    ms: float | None = None
    macs: float | None = None
    keep: float | None = None
    lengths: tuple[int, ...] | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        named = {"ms": self.ms, "macs": self.macs, "keep": self.keep, "lengths": self.lengths}
        given = [name for name, value in named.items() if value is not None]
        if len(given) > 1:
            raise QualaError(
                f"A budget is one of ms, macs, keep, lengths; got {', '.join(given)}."
            )
        for name in ("ms", "macs", "keep"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise QualaError(f"A budget's `{name}` must be above 0, got {value}.")
        if self.keep is not None and self.keep > 1:
            raise QualaError(f"A budget's `keep` is a share, at most 1, got {self.keep}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One question about one context. Raises QualaError for empty text and for `top_k` below 1."""

    question: str
    context: str
    budget: Budget = field(default_factory=Budget)
    top_k: int = 1
    survivors: bool = False
    """Whether the reply says which characters of the context each layer kept."""

    def __post_init__(self) -> None:
        for name in ("question", "context"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise QualaError(f"The {name} must be text, got {type(value).__name__}.")
            if not value.strip():
                raise QualaError(f"The {name} is empty.")
        if self.top_k < 1:
            raise QualaError(f"`top_k` must be at least 1, got {self.top_k}.")


@dataclass(frozen=True, slots=True)
class Layer:
    """What a layer kept of the context: character ranges of the tokens that went on."""

    kept: int
    tokens: int
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Answers, the best first, and how they came about.

    `milliseconds` is the time from text to answer, of the whole batch where the query was one of
    several. `note` says in one sentence where the budget could not be kept.
    """

    answers: tuple[Answer, ...]
    lengths: tuple[int, ...] | None
    windows: int
    milliseconds: float
    note: str | None = None
    layers: tuple[Layer, ...] = ()
