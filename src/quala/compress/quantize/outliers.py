"""Inputs that stay float: a few large ones would make the grid of all others coarse."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from quala.compress.quantize.layers import QuantLinear

WORTH = 2.0
"""How much smaller the range of the other inputs must be for a product of their own."""


def find_outliers(model: nn.Module, run: Callable[[], None]) -> None:
    """Choose the inputs of each layer that stay float, by the forward passes that `run` makes.

    They are the `outliers` inputs with the largest absolute values, where the next largest is at
    most half of the largest; elsewhere none. After LLM.int8() (arXiv 2208.07339), whose threshold
    is a value instead. Where no layer wants any, nothing is run.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, QuantLinear) and module.input_quantizer.config.outliers
    ]
    if not layers:
        return
    seen: dict[QuantLinear, Tensor] = {}

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, QuantLinear)
        largest = inputs[0].detach().abs().flatten(0, -2).amax(0).float()
        seen[layer] = torch.maximum(seen[layer], largest) if layer in seen else largest

    hooks = [layer.register_forward_pre_hook(watch) for layer in layers]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    for layer in layers:
        if layer in seen:
            layer.outliers = _largest(seen[layer], layer.input_quantizer.config.outliers)


def _largest(values: Tensor, count: int) -> Tensor:
    """Return the places of the `count` largest values, none where the rest is about as large."""
    if count >= len(values):
        return values.new_empty(0, dtype=torch.long)
    top = values.topk(count + 1)
    worth = top.values[0] >= WORTH * top.values[-1]
    return top.indices[:count].sort().values if worth else top.indices[:0]
