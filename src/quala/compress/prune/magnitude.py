"""Magnitude pruning: the smallest weights become zero, and masks keep them at zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from quala.compress.structure import embedding_name, float_embedding, float_linear, linear_names
from quala.errors import QualaError

Masks = dict[str, Tensor]


def prunable_weights(hf: PreTrainedModel, *, embeddings: bool = True) -> dict[str, Tensor]:
    """Return the encoder's matrices, and the word embeddings, by the name of the parameter.

    A factorized layer has two. Biases, LayerNorms, positions and heads are left out.

    Raises:
        QualaError: for a quantized model.
    """
    names = [name for layer in linear_names(hf) for name in layer.values()]
    modules: dict[str, nn.Module] = {name: float_linear(hf, name) for name in names}
    if embeddings:
        modules[embedding_name(hf)] = float_embedding(hf)
    return {
        key: weight
        for name, module in modules.items()
        for key, weight in module.named_parameters(prefix=name)
        if weight.dim() == 2
    }


def magnitude_masks(weights: Mapping[str, Tensor], sparsity: float) -> Masks:
    """Return masks, True where a weight stays, that hide the smallest round(sparsity N) weights.

    All weights are ranked together. Zeros are the smallest, so pruning again with a higher
    sparsity never brings a weight back.

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
        # Multiplying floats is several times faster than filling by a mask.
        parameters[name].mul_(mask.to(parameters[name].dtype))
