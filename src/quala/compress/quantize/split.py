"""Ternary weight splitting (BinaryBERT, arXiv 2012.15701): a ternary layer as two binary ones."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from quala.compress.quantize.config import TERNARY
from quala.compress.quantize.grids import twn_codes
from quala.compress.quantize.modules import QuantEmbedding, QuantLinear, WeightQuantizer
from quala.errors import QualaError
from quala.models.families import float_product

_Layer = QuantLinear | QuantEmbedding
SLACK = 0.5
"""Sum of |w| over that of its halves, where w is too large for the ternary scale. A guess below 1:
with 1, one half of each dropped weight would be 0."""


class Split(nn.Module):
    """Sum of two layers on one input: the two binary halves of one ternary layer.

    Together they have the parameters of a layer twice as wide.
    """

    copies = 2
    """How many layers are summed."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.first(x) + self.second(x)
        return total

    def float_product(self, x: Tensor) -> Tensor:
        """Sum the two layers on an input that stays float."""
        return float_product(self.first, x) + float_product(self.second, x)

    @property
    def in_features(self) -> int:
        """Number of inputs, of halves that are linear layers."""
        return int(cast("nn.Linear", self.first).in_features)

    @property
    def out_features(self) -> int:
        """Number of outputs, of halves that are linear layers."""
        return int(cast("nn.Linear", self.first).out_features)


def split_weights(
    groups: Tensor, codes: Tensor | None = None, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Split `groups` (..., n) into w1 + w2 so that bwn(w1) + bwn(w2) is its ternary form.

    `codes` and `scale` (..., 1) are that form, TWN's by default. A kept weight is divided into
    a w and (1 - a) w. Of a dropped weight, one half takes w moved away from 0 by b > 0, and the
    other takes b with the opposite sign. a and b make mean|w1| = mean|w2| = scale / 2. Computed
    in float64.

    As published, the first half takes the positive dropped weights. If nearly all dropped weights
    have one sign, no a in (0, 1) exists; then the halves take them in turns, by falling size. For
    some loss-aware scales no two halves add up to w: a scale not above mean|w|, or one that
    differs from it while nothing is dropped. Then w1 + w2 = c w, and only the sum before rounding
    differs.

    Raises:
        QualaError: for weights that are not finite, and codes that drop a weight larger than
            those that they keep.
    """
    w = groups.double()
    if not w.isfinite().all():
        raise QualaError("its weights are not finite.")
    if codes is None or scale is None:
        codes, scale = twn_codes(w, w)
    kept = codes != 0
    wanted = scale.double() * w.shape[-1]  # (..., 1), the sum of |w1| + |w2|
    count = (~kept).sum(-1, keepdim=True)
    w = _shrunk(w, wanted, count)
    kept_mass = w.abs().masked_fill(~kept, 0).sum(-1, keepdim=True)
    dropped = w.masked_fill(kept, 0)
    first_takes = _sides(dropped, kept_mass)
    balance = torch.where(first_takes, dropped.abs(), -dropped.abs()).sum(-1, keepdim=True)
    empty = kept_mass == 0
    share = ((kept_mass - balance) / (2 * kept_mass)).masked_fill(empty, 0.5)
    _check_share(share)
    missing = (wanted - w.abs().sum(-1, keepdim=True)).clamp(min=0)
    shift = (missing / (2 * count.clamp(min=1))).masked_fill(empty | (count == 0), 0.0)
    away = torch.where(w > 0, shift, -shift)
    first = torch.where(kept, share * w, torch.where(first_takes, w + away, -away))
    second = torch.where(kept, (1 - share) * w, torch.where(first_takes, -away, w + away))
    return first.to(groups.dtype), second.to(groups.dtype)


def split_ternary(model: nn.Module) -> list[str]:
    """Swap the ternary layers of a quantized `model` in place for `Split`s of binary halves.

    Weights and inputs keep their grids, biases are halved, and each half has its own copy of the
    input quantizer. The parameters are new, so an optimizer must be made after the split.

    Returns:
        The names of the swapped modules, in module order.

    Raises:
        QualaError: when no layer is ternary, or a weight is not finite.
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
        model.set_submodule(name, split)
    return list(splits)


def split_shells(model: nn.Module, names: Iterable[str]) -> None:
    """Swap layers of a quantized `model` in place for `Split`s whose weights are loaded later."""
    for name in names:
        layer = model.get_submodule(name)
        if not isinstance(layer, (QuantLinear, QuantEmbedding)):
            raise QualaError(f"`{name}` is a {type(layer).__name__}, which has no halves.")
        first, second = (_half(layer, layer.weight.detach().clone()) for _ in range(2))
        model.set_submodule(name, Split(first, second).train(layer.training))


def split_names(model: nn.Module) -> list[str]:
    """Return the names of the split layers, in module order."""
    return [name for name, module in model.named_modules() if isinstance(module, Split)]


def join_halves(state: dict[str, Tensor], names: Iterable[str]) -> None:
    """Add up, in place, the tensors of the halves of these layers under the layers' own names."""
    for name in names:
        for key in [key for key in state if key.startswith(f"{name}.first.")]:
            leaf = key.rpartition(".")[2]
            state[f"{name}.{leaf}"] = state.pop(key) + state.pop(f"{name}.second.{leaf}")


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
    half.weight_quantizer = WeightQuantizer(weight, replace(quantizer.spec, method="bwn", bits=1))
    if isinstance(half, QuantLinear) and half.bias is not None:
        half.bias = nn.Parameter(half.bias.detach() / 2)
    return half


def _shrunk(w: Tensor, wanted: Tensor, count: Tensor) -> Tensor:
    """Return `w`, scaled down where its halves could not have the size `wanted` together.

    Only dropped weights, `count` of them, can have halves that are larger than w together.
    """
    mass = w.abs().sum(-1, keepdim=True)
    target = torch.where(count > 0, SLACK * wanted, wanted)
    tight = (mass > 0) & torch.where(count > 0, mass >= wanted, mass != wanted)
    return w * torch.where(tight, target / mass, 1.0)


def _sides(dropped: Tensor, kept_mass: Tensor) -> Tensor:
    """Return True where the first half takes a dropped weight and the second only the shift."""
    positive = dropped > 0
    lopsided = (dropped.sum(-1, keepdim=True).abs() >= kept_mass).squeeze(-1)  # (...)
    if lopsided.any():
        order = dropped[lopsided].abs().argsort(dim=-1, descending=True, stable=True)
        turns = torch.arange(order.shape[-1], device=order.device) % 2 == 0
        positive[lopsided] = torch.empty_like(order, dtype=torch.bool).scatter_(
            -1, order, turns.expand_as(order)
        )
    return positive


def _check_share(share: Tensor) -> None:
    wrong = (share <= 0) | (share >= 1)
    if wrong.any():
        raise QualaError(
            f"the kept weights would be shared out as {float(share[wrong][0]):.3g}, allowed is "
            "between 0 and 1; its codes drop a weight that is larger than those that they keep."
        )
