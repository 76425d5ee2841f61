"""Pruning of single weights: those of lowest score become zero, and masks keep them at zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from quala.compress.structure import embedding_name, float_embedding, float_linear, linear_names
from quala.errors import QualaError

if TYPE_CHECKING:
    from torch.optim import Optimizer

Masks = dict[str, Tensor]
_Batch = TypeVar("_Batch")


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


def fisher_scores(
    weights: Mapping[str, Tensor], batches: Iterable[_Batch], loss: Callable[[_Batch], Tensor]
) -> dict[str, Tensor]:
    """Return the sum over batches of g^2 w^2 / 2, g the gradient of the mean loss of a batch.

    It estimates what the loss gains if w becomes zero, by the diagonal of the empirical Fisher
    information (optimal brain damage; oBERT, arXiv 2203.07259, has blocks and an update too).
    Rows of embeddings that no batch reads have the score 0. No gradient is left on the weights.

    Raises:
        QualaError: for no batch, and for gradients that are not finite.
    """
    squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    seen = 0
    for batch in batches:
        seen += 1
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(batch), list(weights.values()))
        for name, gradient in zip(squares, gradients, strict=True):
            squares[name] += gradient.square()
    if not seen:
        raise QualaError("A Fisher score needs at least one batch, got none.")
    scores = {name: squares[name] * weights[name].detach().square() / 2 for name in squares}
    if not all(bool(score.isfinite().all()) for score in scores.values()):
        raise QualaError("Fisher scores must be finite; the gradients hold NaN or infinity.")
    return scores


def magnitude_masks(
    weights: Mapping[str, Tensor], sparsity: float, *, scores: Mapping[str, Tensor] | None = None
) -> Masks:
    """Return masks, True where a weight stays, that hide the round(sparsity N) of lowest score.

    All weights are ranked together. Zeros come first, so pruning again with a higher sparsity
    never brings a weight back.

    Args:
        weights: tensors of any shape by name, see `prunable_weights`.
        sparsity: share of weights to hide, 0 to below 1.
        scores: of each weight, 0 or more, such as `fisher_scores`; None ranks by magnitude.

    Raises:
        QualaError: for a sparsity out of range, or no weights.
    """
    if not 0 <= sparsity < 1:
        raise QualaError(f"`sparsity` must be in [0, 1), got {sparsity}.")
    if not weights:
        raise QualaError("Pruning needs at least one tensor, got none.")
    joined = torch.cat([weight.detach().flatten().abs() for weight in weights.values()])
    if scores is not None:
        ranked = torch.cat([scores[name].flatten() for name in weights])
        joined = torch.where(joined == 0, -1.0, ranked)  # zeros before unread weights
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


def masks_of(hf: PreTrainedModel) -> Masks:
    """Return masks of the matrices of `prunable_weights` that have zeros, read off the zeros.

    The row of the padding token, which is zero in many models, is not pruned. The model may be
    fake-quantized.
    """
    found: Masks = {}
    linears = [name for layer in linear_names(hf) for name in layer.values()]
    for name in (*linears, embedding_name(hf)):
        for key, module in hf.get_submodule(name).named_modules(prefix=name):
            weight, padding = getattr(module, "weight", None), getattr(module, "padding_idx", None)
            if not isinstance(weight, nn.Parameter) or weight.dim() != 2:
                continue
            mask = weight.detach() != 0
            if padding is not None:
                mask[padding] = True
            if not bool(mask.all()):
                found[f"{key}.weight"] = mask
    return found


def zero_share(weights: Mapping[str, Tensor]) -> float:
    """Return the share of zeros among all weights."""
    total = sum(weight.numel() for weight in weights.values())
    return 1 - sum(int(weight.count_nonzero()) for weight in weights.values()) / total


class PrunedWeights(nn.Module):
    """The masks of a model in training; without masks it does nothing.

    They are buffers: a checkpoint holds them, and they move with the model to its device.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = list(masks)
        for place, mask in enumerate(masks.values()):
            self.register_buffer(f"mask_{place}", mask)

    def masks(self) -> Masks:
        """Return the masks, True where a weight stays, by the name of the parameter."""
        return dict(zip(self._names, self.buffers(), strict=True))

    def hide_gradients(self, model: nn.Module) -> None:
        """Set the gradients of pruned weights to zero, so that clipping leaves them out."""
        weights = dict(model.named_parameters())
        for name, mask in self.masks().items():
            gradient = weights[name].grad
            if gradient is not None:
                gradient.mul_(mask.to(gradient.dtype))

    def keep_zero(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Set pruned weights to zero after each step of `optimizer`, before anything is saved."""
        optimizer.register_step_post_hook(lambda *_: apply_masks(model, self.masks()))
