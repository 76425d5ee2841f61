"""Make an encoder smaller: fewer layers, heads and neurons, truncated SVD, zeros, in this order.

SVD and zeros to a number of parameters are LadaBERT's, arXiv 2004.04124; prefixes of the most
important units and word embeddings of low rank are ROSITA's, arXiv 2103.11367.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import Tensor
from transformers import PreTrainedModel

from quala.compress.low_rank import FactorizedEmbedding, FactorizedLinear
from quala.compress.prune.config import HybridConfig
from quala.compress.prune.magnitude import (
    Masks,
    apply_masks,
    magnitude_masks,
    prunable_weights,
    zero_share,
)
from quala.compress.prune.structured import Importance, Places, falling_places, keep_units
from quala.compress.structure import (
    embedding_name,
    float_embedding,
    float_linear,
    keep_layers,
    linear_names,
    record_structure,
    structure_of,
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

    The two factors together have at most 1 / `ratio` of the weights of the dense matrix, or rank
    1. In a model that is factorized already, layers of a higher rank are cut to the new one, and
    the others stay as they are.

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
        _cut_words(small, rank_for_ratio(table.num_embeddings, table.embedding_dim, ratio))
    return record_structure(small)


def factorize_words(hf: _Model, rank: int) -> _Model:
    """Return a copy whose word embeddings are a truncated SVD of this rank, if that is smaller.

    A table that is factorized already is cut to the closest of the rank, unless it is below it.

    Raises:
        QualaError: for a quantized model.
    """
    small, table = copy.deepcopy(hf), float_embedding(hf)
    rows, width = table.num_embeddings, table.embedding_dim
    if isinstance(table, FactorizedEmbedding) or rank * (rows + width) < rows * width:
        _cut_words(small, rank)
    return record_structure(small)


def _cut_words(hf: PreTrainedModel, rank: int) -> None:
    table = float_embedding(hf)
    if not isinstance(table, FactorizedEmbedding) or table.rank > rank:
        hf.set_submodule(embedding_name(hf), FactorizedEmbedding.from_embedding(table, rank))


def keep_prefix(
    hf: _Model,
    scores: Importance,
    *,
    layers: Sequence[int],
    heads: int | None = None,
    neurons: int | None = None,
) -> tuple[_Model, list[list[int]]]:
    """Return a copy with some layers, each with its most important heads and neurons.

    A layer that has fewer of them keeps all. The heads of each layer come second, as numbers of
    `hf`, in the order in which the copy has them.

    Args:
        hf: a float model, dense or factorized.
        scores: of all layers of `hf`.
        layers: rising numbers of those that are kept.
        heads: how many each layer keeps; None keeps all, as they are.
        neurons: as `heads`.

    Raises:
        QualaError: for a quantized model, and scores of another model or not finite.
    """
    scores.check(hf)
    small = keep_layers(hf, layers)
    sizes = structure_of(small).layers
    kept_heads = [list(range(one.heads)) for one in sizes]
    places: dict[str, Places] = {}
    if heads is not None and heads < max(one.heads for one in sizes):
        kept_heads = [order[:heads] for order in _falling(scores.heads, layers)]
        places["heads"] = kept_heads
    if neurons is not None and neurons < max(one.intermediate for one in sizes):
        places["neurons"] = [order[:neurons] for order in _falling(scores.neurons, layers)]
    return keep_units(small, **places), kept_heads


def _falling(scores: Sequence[Tensor], layers: Sequence[int]) -> list[list[int]]:
    return falling_places([scores[layer] for layer in layers])


def with_zeros(
    hf: _Model,
    sparsity: float,
    *,
    embeddings: bool = True,
    scores: Mapping[str, Tensor] | None = None,
) -> tuple[_Model, Masks]:
    """Return a pruned copy, and the masks that training must keep; see `magnitude_masks`.

    A model that has more zeros already keeps them.
    """
    small = copy.deepcopy(hf)
    weights = prunable_weights(small, embeddings=embeddings)
    masks = magnitude_masks(weights, max(sparsity, zero_share(weights)), scores=scores)
    apply_masks(small, masks)
    return small, masks


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
    """Return how many weights of the compressed matrices may be non-zero: P / ratio - F.

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
