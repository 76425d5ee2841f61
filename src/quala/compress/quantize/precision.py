"""How wide the integers of a model are, in one word, and how many weights it has."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

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
    inputs = _input_bits(linears)
    if {layer.bits for layer in layers} | set(inputs) == {8}:
        return "int8"
    tables = [layer.bits for layer in layers if not isinstance(layer, IntegerLinear)]
    weights = [layer.bits for layer in linears]
    return f"w{_widths(weights)}e{_widths(tables or [32])}a{_widths(inputs)}"


def bits_of(model: nn.Module) -> str:
    """Return the bits of weights, embeddings and activations, such as `2-2-8`; 32 is float.

    Several widths of a kind are joined, `2/4-8-8`.
    """
    layers = integer_layers(model).values()
    linears = [layer for layer in layers if isinstance(layer, IntegerLinear)]
    kinds = (
        [layer.bits for layer in linears],
        [layer.bits for layer in layers if not isinstance(layer, IntegerLinear)],
        _input_bits(linears),
    )
    return "-".join(_widths(kind or [32], "/") for kind in kinds)


def weight_counts(model: nn.Module) -> tuple[int, int]:
    """Count the weights and biases of a float or integer model, and those that are not zero.

    Scales and zero points do not count. Pruning makes zeros, and so does rounding to few bits.
    """
    tensors: list[Tensor] = list(model.parameters())
    for layer in integer_layers(model).values():
        tensors.append(layer.float_weight())  # with what stays float of it
        if isinstance(layer, IntegerLinear) and layer.bias is not None:
            tensors.append(layer.bias)
    total = sum(tensor.numel() for tensor in tensors)
    return total, sum(int(tensor.count_nonzero()) for tensor in tensors)


def _input_bits(linears: Iterable[IntegerLinear]) -> list[int]:
    return [(layer.levels + 1).bit_length() - 1 for layer in linears]


def _widths(bits: Iterable[int], sign: str = "-") -> str:
    return sign.join(map(str, sorted(set(bits))))
