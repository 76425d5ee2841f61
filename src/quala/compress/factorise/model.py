"""Factorise an encoder's matrices (LadaBERT, arXiv 2004.04124; ROSITA, arXiv 2103.11367)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeVar

from transformers import PreTrainedModel

from quala.compress.factorise.layers import FactorisedEmbedding, FactorisedLinear
from quala.compress.structure import (
    embedding_name,
    float_embedding,
    float_linear,
    linear_names,
    record_structure,
)
from quala.errors import QualaError

_Model = TypeVar("_Model", bound=PreTrainedModel)


@dataclass(frozen=True)
class FactoriseConfig:
    """How far the encoder's matrices and the word embeddings shrink; 0 leaves them as they are.

    Raises:
        QualaError: for a ratio of 1 or less, a negative rank, a ratio beside a rank, or nothing
            to do.
    """

    linear_ratio: float = 0.0
    """How many times fewer weights the two factors have than the dense matrix, above 1."""
    linear_rank: int = 0
    """Rank of every matrix, in place of the ratio."""
    embedding_ratio: float = 0.0
    """As `linear_ratio`, for the word embeddings."""
    embedding_rank: int = 0
    """Rank of the word embeddings, in place of the ratio; ROSITA has 128."""

    def __post_init__(self) -> None:
        for kind in ("linear", "embedding"):
            ratio, rank = getattr(self, f"{kind}_ratio"), getattr(self, f"{kind}_rank")
            if ratio and not ratio > 1:
                raise QualaError(f"`{kind}_ratio` is {ratio}; allowed is above 1, or 0 for none.")
            if rank < 0:
                raise QualaError(f"`{kind}_rank` is {rank}; allowed is 0 or more.")
            if ratio and rank:
                raise QualaError(
                    f"`{kind}_ratio` {ratio} and `{kind}_rank` {rank} exclude each other."
                )
        if not (self.linear_ratio or self.linear_rank or self._embedding):
            raise QualaError("Nothing to factorise; give a ratio or a rank above 0.")

    @property
    def _embedding(self) -> bool:
        return bool(self.embedding_ratio or self.embedding_rank)


def rank_for_ratio(rows: int, columns: int, ratio: float) -> int:
    """Return the largest rank r with r (m + n) <= m n / ratio, at least 1.

    Raises:
        QualaError: for a ratio that is not above 0.
    """
    if not ratio > 0:
        raise QualaError(f"`ratio` is {ratio}; allowed is above 0.")
    return max(1, int(rows * columns / (ratio * (rows + columns))))


def factorise(hf: _Model, config: FactoriseConfig) -> _Model:
    """Return a copy of `hf` whose encoder matrices and word embeddings are truncated SVDs.

    Ratios count against the dense matrix, so the same call on a factorised model lowers its
    ranks further; a layer whose rank is low enough already is left alone.

    Raises:
        QualaError: for a quantized model, or a rank above the smaller side of a matrix.
    """
    small = copy.deepcopy(hf)
    if config.linear_ratio or config.linear_rank:
        for name in (name for layer in linear_names(small) for name in layer.values()):
            linear = float_linear(small, name)
            shape = linear.out_features, linear.in_features
            rank = config.linear_rank or rank_for_ratio(*shape, config.linear_ratio)
            if not isinstance(linear, FactorisedLinear) or linear.rank > rank:
                small.set_submodule(name, FactorisedLinear.from_linear(linear, rank))
    if config.embedding_ratio or config.embedding_rank:
        table = float_embedding(small)
        shape = table.num_embeddings, table.embedding_dim
        rank = config.embedding_rank or rank_for_ratio(*shape, config.embedding_ratio)
        if not isinstance(table, FactorisedEmbedding) or table.rank > rank:
            made = FactorisedEmbedding.from_embedding(table, rank)
            small.set_submodule(embedding_name(small), made)
    return record_structure(small)
