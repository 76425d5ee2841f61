"""How much a token matters: the attention that it receives, or what the head says of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from quala.errors import unknown


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What a strategy sees of a layer, after its attention and before its feed-forward."""

    query: Tensor  # (B, heads, n, d)
    key: Tensor  # (B, heads, n, d)
    valid: Tensor | None  # (B, n) bool, real tokens; None when all are
    question: Tensor  # (B, q) bool, the question's tokens among the first q rows
    hidden: Tensor  # (B, n, H)
    span: Callable[[Tensor], Tensor]  # the span head: (B, n, H) to (B, n, 2)


class Significance(Protocol):
    """Score the tokens present at a layer; a higher score stays longer."""

    @property
    def name(self) -> str:
        """The name under which the registry knows the strategy."""

    def scores(self, view: View) -> Tensor:
        """Return scores (B, n), without a gradient; padding neither votes nor is voted for."""


@dataclass(frozen=True, slots=True)
class ColumnSum:
    """Every row votes: the attention that a token receives from all tokens (2001.08950)."""

    name: ClassVar[str] = "column_sum"

    def scores(self, view: View) -> Tensor:
        return _votes(view, view.query.shape[2], voters=view.valid)


@dataclass(frozen=True, slots=True)
class QueryRows:
    """The first rows that survive vote: [CLS] and the question's start, for a block of work."""

    name: ClassVar[str] = "query_rows"
    rows: int = 16

    def scores(self, view: View) -> Tensor:
        voters = None if view.valid is None else view.valid[:, : self.rows]
        return _votes(view, self.rows, voters=voters)


@dataclass(frozen=True, slots=True)
class Question:
    """The question's rows vote; where none has survived, the first row does."""

    name: ClassVar[str] = "question"
    rows: int = 64

    def scores(self, view: View) -> Tensor:
        voters = view.question[:, : self.rows]  # (B, R)
        first = voters[:, :1] | ~voters.any(dim=1, keepdim=True)
        voters = torch.cat([first, voters[:, 1:]], dim=1)
        return _votes(view, voters.shape[1], voters=voters)


@dataclass(frozen=True, slots=True)
class Cls:
    """The first row that survives votes alone: [CLS] wherever it is protected."""

    name: ClassVar[str] = "cls"

    def scores(self, view: View) -> Tensor:
        return _votes(view, 1, voters=None)


@dataclass(frozen=True, slots=True)
class Span:
    """The span head votes: how likely a token starts or ends the answer, as seen at this layer.

    A token of the question counts as much as one `boost` times as likely as chance, 1 / n. The
    head must have been trained on the hidden states of every layer.
    """

    name: ClassVar[str] = "span"
    boost: float = 8.0

    @torch.no_grad()
    def scores(self, view: View) -> Tensor:
        logits = view.span(view.hidden).float()  # (B, n, 2)
        tokens = logits.new_full((len(logits), 1), logits.shape[1])
        if view.valid is not None:
            logits = logits.masked_fill(~view.valid.unsqueeze(-1), -torch.inf)
            tokens = view.valid.sum(dim=1, keepdim=True)
        likely = logits.log_softmax(dim=1).amax(dim=2)  # (B, n)
        question = F.pad(view.question, (0, logits.shape[1] - view.question.shape[1]))
        return torch.where(question, math.log(self.boost) - tokens.log(), likely)


@torch.no_grad()
def _votes(view: View, rows: int, *, voters: Tensor | None) -> Tensor:
    """Sum the attention of the first `rows` over heads and voting rows (B, rows): (B, n)."""
    query = view.query[:, :, :rows] * view.query.shape[-1] ** -0.5  # (B, heads, R, d)
    logits = query @ view.key.transpose(-1, -2)  # (B, heads, R, n)
    if view.valid is not None:
        logits = logits.masked_fill(~view.valid[:, None, None, :], -torch.inf)
    votes: Tensor = logits.softmax(dim=-1).sum(dim=1)  # (B, R, n)
    if voters is not None:
        votes = votes * voters.unsqueeze(-1)
    return votes.sum(dim=1)


SIGNIFICANCE: Mapping[str, Significance] = MappingProxyType(
    {strategy.name: strategy for strategy in (ColumnSum(), QueryRows(), Question(), Cls(), Span())}
)


def significance(name: str) -> Significance:
    """Return the strategy called `name`. Raises QualaError for another name."""
    if name not in SIGNIFICANCE:
        raise unknown("significance", name, SIGNIFICANCE)
    return SIGNIFICANCE[name]
