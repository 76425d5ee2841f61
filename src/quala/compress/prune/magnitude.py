"""Unstructured magnitude pruning: the smallest weights are zero, and stay zero under a mask."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from quala.compress.structure import (
    FactorizedEmbedding,
    FactorizedLinear,
    embedding_name,
    float_embedding,
    float_linear,
    linear_names,
)
from quala.errors import QualaError

Masks = dict[str, Tensor]


def prunable_weights(hf: PreTrainedModel, *, embeddings: bool = True) -> dict[str, Tensor]:
    """Return the encoder's matrices, and the word embeddings, by the name of the parameter.

    Of a factorized layer both factors. Biases, LayerNorms, positions and heads are left out.

    Raises:
        QualaError: for a quantized model.
    """
    found: dict[str, Tensor] = {}
    for name in (name for layer in linear_names(hf) for name in layer.values()):
        linear = float_linear(hf, name)
        if isinstance(linear, FactorizedLinear):
            found[f"{name}.down.weight"] = linear.down.weight
            found[f"{name}.up.weight"] = linear.up.weight
        else:
            found[f"{name}.weight"] = linear.weight
    if embeddings:
        name, table = embedding_name(hf), float_embedding(hf)
        if isinstance(table, FactorizedEmbedding):
            found[f"{name}.table.weight"] = table.table.weight
            found[f"{name}.up.weight"] = table.up.weight
        else:
            found[f"{name}.weight"] = table.weight
    return found


def magnitude_masks(weights: Mapping[str, Tensor], sparsity: float) -> Masks:
    """Return masks, True where a weight stays, that hide the smallest round(sparsity N) weights.

    Weights that are zero are the smallest, so repeated pruning with rising sparsity never
    brings one back.

    Args:
        weights: tensors of any shape by name, see `prunable_weights`.
        sparsity: share of weights to hide, 0 to below 1.

    Raises:
        QualaError: for a sparsity out of range, or no weights.
    """
    if not 0 <= sparsity < 1:
        raise QualaError(f"`sparsity` must be in [0, 1), got {sparsity}.")
    if not weights:
        raise QualaError("Pruning needs at least one tensor, got none.")
    joined = torch.cat([weight.detach().flatten().abs() for weight in weights.values()])
    hidden = joined.topk(round(sparsity * len(joined)), largest=False, sorted=False).indices
    kept = torch.ones(len(joined), dtype=torch.bool, device=joined.device)
    kept[hidden] = False
    parts = kept.split([weight.numel() for weight in weights.values()])
    return {
        name: part.view(weight.shape)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the hidden weights to zero in place; call it after each optimizer step.

    Raises:
        QualaError: for a mask that fits no parameter of the model.
    """
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        if name not in parameters or parameters[name].shape != mask.shape:
            raise QualaError(f"The mask `{name}` {tuple(mask.shape)} fits no parameter.")
        # Floats multiply several times faster than a mask fills.
        parameters[name].mul_(mask.to(parameters[name].dtype))
