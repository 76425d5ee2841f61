"""Factorize an encoder's matrices (LadaBERT, arXiv 2004.04124; ROSITA, arXiv 2103.11367)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeVar

from transformers import PreTrainedModel

from quala.compress.prune.config import HybridConfig, split_ratio
from quala.compress.prune.magnitude import Masks, apply_masks, magnitude_masks, prunable_weights
from quala.compress.structure import (
    FactorizedEmbedding,
    FactorizedLinear,
    embedding_name,
    float_embedding,
    float_linear,
    linear_names,
    record_structure,
)
from quala.errors import QualaError

_Model = TypeVar("_Model", bound=PreTrainedModel)


@dataclass(frozen=True)
class FactorizeConfig:
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
            raise QualaError("Nothing to factorize; give a ratio or a rank above 0.")

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


def factorize(hf: _Model, config: FactorizeConfig) -> _Model:
    """Return a copy of `hf` whose encoder matrices and word embeddings are truncated SVDs.

    Ratios count against the dense matrix, so the same call on a factorized model lowers its
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
            if not isinstance(linear, FactorizedLinear) or linear.rank > rank:
                small.set_submodule(name, FactorizedLinear.from_linear(linear, rank))
    if config.embedding_ratio or config.embedding_rank:
        table = float_embedding(small)
        shape = table.num_embeddings, table.embedding_dim
        rank = config.embedding_rank or rank_for_ratio(*shape, config.embedding_ratio)
        if not isinstance(table, FactorizedEmbedding) or table.rank > rank:
            made = FactorizedEmbedding.from_embedding(table, rank)
            small.set_submodule(embedding_name(small), made)
    return record_structure(small)


def hybrid_compress(
    hf: _Model, config: HybridConfig, *, original_parameters: int
) -> tuple[_Model, Masks]:
    """Return a factorized and pruned copy of `hf`, and the masks that training must keep.

    Of P = `original_parameters`, P / ratio may be non-zero. With F that no method touches
    (biases, LayerNorms, positions, head) the D weights that the matrices of `hf` would have if
    they were dense shrink by D / (P / ratio - F), which `split_ratio` divides. Pruning, global
    over all factors, takes what the rounding of ranks leaves, so that the budget is met to the
    weight unless the model was below it, or rounding alone went there. Call it again with a
    higher ratio, on the model trained meanwhile, to compress in steps (`ratio_steps`).

    Raises:
        QualaError: for a ratio that the untouched parameters alone exceed, or a quantized model.
    """
    budget = weight_budget(hf, config, original_parameters=original_parameters)
    svd, _ = split_ratio(_dense_weights(hf, config) / budget, config.svd_share)
    small = hf
    if svd > 1:
        ratios = FactorizeConfig(
            linear_ratio=svd, embedding_ratio=svd if config.embeddings else 0.0
        )
        small = factorize(hf, ratios)
    weights = prunable_weights(small, embeddings=config.embeddings)
    left = sum(weight.numel() for weight in weights.values())
    masks = magnitude_masks(weights, max(0.0, 1 - budget / left))
    if small is hf:
        small = copy.deepcopy(hf)
    apply_masks(small, masks)
    return small, masks


def weight_budget(hf: PreTrainedModel, config: HybridConfig, *, original_parameters: int) -> int:
    """Return P / ratio - F: how many weights of the compressed matrices may be non-zero.

    Raises:
        QualaError: for a ratio that the untouched parameters alone exceed, or a quantized model.
    """
    matrices = prunable_weights(hf, embeddings=config.embeddings)
    total = sum(weight.numel() for weight in hf.parameters())
    untouched = total - sum(weight.numel() for weight in matrices.values())
    budget = round(original_parameters / config.ratio) - untouched
    if budget < 1:
        raise QualaError(
            f"`ratio` {config.ratio:g} leaves {budget + untouched} of {original_parameters} "
            f"parameters, no more than the {untouched} that are not compressed; allowed is "
            f"below {original_parameters / untouched:.4g}"
            f"{'.' if config.embeddings else ', and more with `embeddings: true`.'}"
        )
    return budget


def _dense_weights(hf: PreTrainedModel, config: HybridConfig) -> int:
    """Count the weights of all matrices that are compressed, as if none were factorized."""
    linears = (float_linear(hf, name) for layer in linear_names(hf) for name in layer.values())
    total = sum(linear.in_features * linear.out_features for linear in linears)
    if config.embeddings:
        table = float_embedding(hf)
        total += table.num_embeddings * table.embedding_dim
    return total
