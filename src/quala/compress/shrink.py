"""Factorize an encoder's matrices (LadaBERT, arXiv 2004.04124; ROSITA, arXiv 2103.11367)."""

from __future__ import annotations

import copy
from typing import TypeVar

from transformers import PreTrainedModel

from quala.compress.low_rank import FactorizedEmbedding, FactorizedLinear
from quala.compress.prune.config import HybridConfig
from quala.compress.prune.magnitude import Masks, apply_masks, magnitude_masks, prunable_weights
from quala.compress.structure import (
    embedding_name,
    float_embedding,
    float_linear,
    linear_names,
    record_structure,
)
from quala.errors import QualaError

_Model = TypeVar("_Model", bound=PreTrainedModel)


def rank_for_ratio(rows: int, columns: int, ratio: float) -> int:
    """Return the largest rank r with r (m + n) <= m n / ratio, at least 1.

    Raises:
        QualaError: for a ratio that is not above 0.
    """
    if not ratio > 0:
        raise QualaError(f"`ratio` is {ratio}; allowed is above 0.")
    return max(1, int(rows * columns / (ratio * (rows + columns))))


def factorize(hf: _Model, ratio: float, *, embeddings: bool = True) -> _Model:
    """Return a copy of `hf` whose encoder matrices and word embeddings are truncated SVDs.

    The two factors have `ratio` times fewer weights than the dense matrix. The ratio counts
    against the dense matrix, so the same call on a factorized model lowers its ranks further; a
    layer whose rank is low enough already is left alone.

    Args:
        hf: a float model, dense or factorized.
        ratio: above 1.
        embeddings: whether the word embeddings are factorized as well.

    Raises:
        QualaError: for a ratio of 1 or less, or a quantized model.
    """
    if not ratio > 1:
        raise QualaError(f"`ratio` is {ratio}; allowed is above 1.")
    small = copy.deepcopy(hf)
    for name in (name for layer in linear_names(small) for name in layer.values()):
        linear = float_linear(small, name)
        rank = rank_for_ratio(linear.out_features, linear.in_features, ratio)
        if not isinstance(linear, FactorizedLinear) or linear.rank > rank:
            small.set_submodule(name, FactorizedLinear.from_linear(linear, rank))
    if embeddings:
        table = float_embedding(small)
        rank = rank_for_ratio(table.num_embeddings, table.embedding_dim, ratio)
        if not isinstance(table, FactorizedEmbedding) or table.rank > rank:
            made = FactorizedEmbedding.from_embedding(table, rank)
            small.set_submodule(embedding_name(small), made)
    return record_structure(small)


def hybrid_compress(
    hf: _Model, config: HybridConfig, *, original_parameters: int
) -> tuple[_Model, Masks]:
    """Return a factorized and pruned copy of `hf`, and the masks that training must keep.

    Of P = `original_parameters`, P / ratio may be non-zero. F parameters are not compressed:
    biases, LayerNorms, positions, head. The D weights that the matrices of `hf` would have if
    they were dense shrink by R = D / (P / ratio - F): by R^s in factorizing, s = `svd_share`, and
    by the rest in pruning, which counts against the factors. Pruning ranks the weights of all
    factors together and also removes what the rounding of ranks leaves. So the budget is met to
    the weight, unless the model was below it or rounding alone went there. To compress in steps
    (`ratio_steps`), call it again with a higher ratio on the model trained meanwhile.

    Raises:
        QualaError: for a ratio that the untouched parameters alone exceed, or a quantized model.
    """
    budget = weight_budget(hf, config, original_parameters=original_parameters)
    svd = (_dense_weights(hf, config) / budget) ** config.svd_share
    small = hf
    if svd > 1:
        small = factorize(hf, svd, embeddings=config.embeddings)
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
