"""Ternary weight splitting (BinaryBERT, arXiv 2012.15701): a ternary layer as two binary ones."""

from __future__ import annotations

import copy
from dataclasses import replace as changed

import torch
from torch import Tensor, nn

from quala.compress.quantize.layers import QuantEmbedding, QuantLinear
from quala.compress.quantize.model import replace
from quala.compress.quantize.spec import TERNARY
from quala.compress.quantize.ternary import twn_integers
from quala.compress.quantize.weight import WeightQuantizer
from quala.errors import QualaError

_Layer = QuantLinear | QuantEmbedding


class Split(nn.Module):
    """Sum of two layers on one input: the two binary halves of what was one ternary layer.

    Together they have the parameters of a layer twice as wide.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.first(x) + self.second(x)
        return total


def split_weights(
    groups: Tensor, codes: Tensor | None = None, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Split `groups` (..., n) into w1 + w2 so that bwn(w1) + bwn(w2) is its ternary form.

    `codes` and `scale` (..., 1) are that form, TWN's when left out. Kept weights are shared out as
    a w and (1 - a) w; the others become (w + b, -b) where positive, else (b, w - b), with a and b
    such that mean|w1| = mean|w2| = scale / 2. Computed in float64.

    Raises:
        QualaError: where no such a in (0, 1) and b > 0 exist, which takes groups whose dropped
            weights are nearly all of one sign, or a scale far from the mean of the kept weights.
    """
    w = groups.double()
    if codes is None or scale is None:
        codes, scale = twn_integers(w)
    kept, size = codes != 0, w.abs()
    kept_mass = (size * kept).sum(-1, keepdim=True)  # (..., 1)
    dropped = w.masked_fill(kept, 0)
    # The signed sum: dropped weights above 0 enlarge w1, those below 0 enlarge w2.
    share = (kept_mass - dropped.sum(-1, keepdim=True)) / (2 * kept_mass)
    missing = scale.double() * w.shape[-1] - size.sum(-1, keepdim=True)
    count = (~kept).sum(-1, keepdim=True)
    shift = torch.where(count > 0, missing / (2 * count.clamp(min=1)), 0.0)
    empty = kept_mass == 0
    _check_split(share.masked_fill(empty, 0.5), (shift > 0) | (count == 0) | empty)
    share, shift = share.masked_fill(empty, 0.5), shift.masked_fill(empty, 0.0)
    first = torch.where(kept, share * w, torch.where(w > 0, w + shift, shift))
    second = torch.where(kept, (1 - share) * w, torch.where(w > 0, -shift, w - shift))
    return first.to(groups.dtype), second.to(groups.dtype)


def split_ternary(model: nn.Module) -> list[str]:
    """Swap the ternary layers of a quantized `model` in place for `Split`s of binary halves.

    Weights and inputs keep their grids, biases are halved, and each half has its own copy of the
    input quantizer. A new model for optimisers: the parameters are new.

    Returns:
        The names of the swapped modules, in module order.

    Raises:
        QualaError: when no layer is ternary, or a weight cannot be split.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (QuantLinear, QuantEmbedding))
        and module.weight_quantizer.spec.method in TERNARY
    }
    if not layers:
        raise QualaError(
            "`split_ternary` got a model without ternary layers; quantize it with "
            f"`weight_quantizer` one of {', '.join(TERNARY)} first."
        )
    splits = {name: _split(name, layer) for name, layer in layers.items()}
    for name, split in splits.items():
        replace(model, name, split)
    return list(splits)


def _split(name: str, layer: _Layer) -> Split:
    quantizer, view = layer.weight_quantizer, layer.weight_quantizer.spec.groups
    codes, scale = quantizer.integers(layer.weight)
    try:
        parts = split_weights(view(layer.weight.detach()), view(codes), scale.unsqueeze(-1))
    except QualaError as error:
        raise QualaError(f"`{name}` cannot be split: {error}") from error
    first, second = (_half(layer, part.reshape(layer.weight.shape)) for part in parts)
    return Split(first, second).train(layer.training)


def _half(layer: _Layer, weight: Tensor) -> _Layer:
    """Return a binary copy of `layer` on `weight`, with half of the bias."""
    quantizer = layer.weight_quantizer
    half = copy.deepcopy(layer)
    half.weight = nn.Parameter(weight)
    half.weight_quantizer = WeightQuantizer(weight, changed(quantizer.spec, method="bwn", bits=1))
    if isinstance(half, QuantLinear) and half.bias is not None:
        half.bias = nn.Parameter(half.bias.detach() / 2)
    return half


def _check_split(share: Tensor, shifted: Tensor) -> None:
    wrong = (share <= 0) | (share >= 1)
    if wrong.any():
        raise QualaError(
            f"the kept weights would be shared out as {float(share[wrong][0]):.3g}, allowed is "
            "between 0 and 1; its small weights are nearly all of one sign."
        )
    if not shifted.all():
        raise QualaError("its scale is too small for its weights; allowed is above their mean.")
