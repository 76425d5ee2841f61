"""How wide the integers of a model are, in one word."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from quala.compress.quantize.integer import IntegerLinear
from quala.compress.quantize.packed import integer_layers


def precision_of(model: nn.Module) -> str:
    """Return `fp32`, `int8`, or for narrower integers their bits, such as `w2e2a8`.

    `w` are linear weights, `e` embeddings (32 where they are float), `a` the inputs of linear
    layers; several widths of a kind are joined, `w2-4`. `int8` has 8-bit linear layers; its
    embeddings are 8-bit or float.
    """
    layers = integer_layers(model).values()
    linears = [layer for layer in layers if isinstance(layer, IntegerLinear)]
    if not linears:
        return "fp32"
    inputs = [(layer.levels + 1).bit_length() - 1 for layer in linears]
    if {layer.bits for layer in layers} | set(inputs) == {8}:
        return "int8"
    tables = [layer.bits for layer in layers if not isinstance(layer, IntegerLinear)]
    weights = [layer.bits for layer in linears]
    return f"w{_widths(weights)}e{_widths(tables or [32])}a{_widths(inputs)}"


def _widths(bits: Iterable[int]) -> str:
    return "-".join(map(str, sorted(set(bits))))
