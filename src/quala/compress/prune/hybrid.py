"""Truncated SVD, then pruned factors, to one budget (LadaBERT, arXiv 2004.04124)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeVar

from transformers import PreTrainedModel

from quala.compress.factorise.model import FactoriseConfig, factorise
from quala.compress.prune.magnitude import (
    Masks,
    apply_masks,
    magnitude_masks,
    prunable_weights,
)
from quala.errors import QualaError

_Model = TypeVar("_Model", bound=PreTrainedModel)


@dataclass(frozen=True)
class HybridConfig:
    """The compression of a model and how both methods share it.

    Raises:
        QualaError: for a ratio of 1 or less, or a share outside 0 to 1.
    """

    ratio: float
    """Parameters of the original model over non-zero parameters of the compressed one."""
    svd_share: float = 0.5
    """Exponent of the ratio that factorising takes; 0 only prunes, 1 only factorises."""
    embeddings: bool = True
    """Whether the word embeddings are compressed as well."""

    def __post_init__(self) -> None:
        if not self.ratio > 1:
            raise QualaError(f"`ratio` is {self.ratio}; allowed is above 1.")
        if not 0 <= self.svd_share <= 1:
            raise QualaError(f"`svd_share` is {self.svd_share}; allowed is 0 to 1.")


def split_ratio(ratio: float, svd_share: float) -> tuple[float, float]:
    """Return ratio^s and ratio^(1 - s): what factorising and pruning contribute.

    Both methods multiply, ratio = ratio_svd ratio_prune, since pruning counts against the factors.
    """
    return float(ratio**svd_share), float(ratio ** (1 - svd_share))


def ratio_steps(ratio: float, steps: int) -> list[float]:
    """Return the rising ratios ratio^(1/K), ratio^(2/K), ..., ratio of an iterative compression.

    Raises:
        QualaError: for a ratio of 1 or less, or no step.
    """
    if not ratio > 1 or steps < 1:
        raise QualaError(f"`ratio` above 1 and a step are needed, got {ratio} and {steps}.")
    return [float(ratio ** (step / steps)) for step in range(1, steps)] + [float(ratio)]


def hybrid_compress(
    hf: _Model, config: HybridConfig, *, original_parameters: int
) -> tuple[_Model, Masks]:
    """Return a factorised and pruned copy of `hf`, and the masks that training must keep.

    Of P = `original_parameters`, P / ratio may be non-zero. With F that no method touches
    (biases, LayerNorms, positions, head) the matrices shrink by (P - F) / (P / ratio - F), which
    `split_ratio` divides. Pruning, global over all factors, takes what the rounding of ranks
    leaves, so that the budget is met to the weight unless rounding alone went below it. Call it
    again with a higher ratio, on the model trained meanwhile, to compress in steps
    (`ratio_steps`).

    Raises:
        QualaError: for a ratio that the untouched parameters alone exceed, or a quantized model.
    """
    matrices = prunable_weights(hf, embeddings=config.embeddings)
    total = sum(weight.numel() for weight in hf.parameters())
    untouched = total - sum(weight.numel() for weight in matrices.values())
    budget = round(original_parameters / config.ratio) - untouched
    if budget < 1:
        raise QualaError(
            f"`ratio` {config.ratio} leaves {budget + untouched} parameters, fewer than the "
            f"{untouched} that are not compressed."
        )
    svd, _ = split_ratio((original_parameters - untouched) / budget, config.svd_share)
    small = hf
    if svd > 1:
        ratios = FactoriseConfig(
            linear_ratio=svd, embedding_ratio=svd if config.embeddings else 0.0
        )
        small = factorise(hf, ratios)
    weights = prunable_weights(small, embeddings=config.embeddings)
    left = sum(weight.numel() for weight in weights.values())
    masks = magnitude_masks(weights, max(0.0, 1 - budget / left))
    if small is hf:
        small = copy.deepcopy(hf)
    apply_masks(small, masks)
    return small, masks
