"""How much a token matters: the attention that it receives, from all rows or from a few."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from quala.errors import unknown


class Significance(Protocol):
    """Score the tokens present at a layer; a higher score stays longer."""

    @property
    def name(self) -> str:
        """The name under which the registry knows the strategy."""

    def scores(self, query: Tensor, key: Tensor, valid: Tensor | None, question: Tensor) -> Tensor:
        """Return scores (B, n) from query and key (B, heads, n, d), without a gradient.

        `valid` (B, n) marks real tokens, None when all are; padding neither votes nor is voted
        for. `question` (B, q) marks the question's tokens among the first q rows.
        """


@dataclass(frozen=True, slots=True)
class ColumnSum:
    """Every row votes: the attention that a token receives from all tokens (2001.08950)."""

    name: ClassVar[str] = "column_sum"

    def scores(self, query: Tensor, key: Tensor, valid: Tensor | None, question: Tensor) -> Tensor:
        return _votes(query, key, valid=valid, voters=valid)


@dataclass(frozen=True, slots=True)
class QueryRows:
    """The first rows that survive vote: [CLS] and the question's start, for a block of work."""

    name: ClassVar[str] = "query_rows"
    rows: int = 16

    def scores(self, query: Tensor, key: Tensor, valid: Tensor | None, question: Tensor) -> Tensor:
        voters = None if valid is None else valid[:, : self.rows]
        return _votes(query[:, :, : self.rows], key, valid=valid, voters=voters)


@dataclass(frozen=True, slots=True)
class Question:
    """The question's rows vote; where none has survived, the first row does."""

    name: ClassVar[str] = "question"
    rows: int = 64

    def scores(self, query: Tensor, key: Tensor, valid: Tensor | None, question: Tensor) -> Tensor:
        voters = question[:, : self.rows]  # (B, R)
        first = voters[:, :1] | ~voters.any(dim=1, keepdim=True)
        voters = torch.cat([first, voters[:, 1:]], dim=1)
        return _votes(query[:, :, : voters.shape[1]], key, valid=valid, voters=voters)


@dataclass(frozen=True, slots=True)
class Cls:
    """The first row that survives votes alone: [CLS] wherever it is protected."""

    name: ClassVar[str] = "cls"

    def scores(self, query: Tensor, key: Tensor, valid: Tensor | None, question: Tensor) -> Tensor:
        return _votes(query[:, :, :1], key, valid=valid, voters=None)


@torch.no_grad()
def _votes(query: Tensor, key: Tensor, *, valid: Tensor | None, voters: Tensor | None) -> Tensor:
    """Sum the attention of `query` (B, heads, R, d) over heads and voting rows: (B, n)."""
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (B, heads, R, n)
    if valid is not None:
        logits = logits.masked_fill(~valid[:, None, None, :], -torch.inf)
    votes: Tensor = logits.softmax(dim=-1).sum(dim=1)  # (B, R, n)
    if voters is not None:
        votes = votes * voters.unsqueeze(-1)
    return votes.sum(dim=1)


SIGNIFICANCE: Mapping[str, Significance] = MappingProxyType(
    {strategy.name: strategy for strategy in (ColumnSum(), QueryRows(), Question(), Cls())}
)


def significance(name: str) -> Significance:
    """Return the strategy called `name`. Raises QualaError for another name."""
    if name not in SIGNIFICANCE:
        raise unknown("significance", name, SIGNIFICANCE)
    return SIGNIFICANCE[name]
