"""Layers for inference that store small integers and multiply them, and models made of them."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from quala.compress.quantize.modules import QuantEmbedding, QuantLinear
from quala.compress.quantize.rounding import affine_integers
from quala.errors import QualaError


def has_integer_kernel() -> bool:
    """Tell whether this CPU multiplies 8-bit integers exactly (VNNI or AMX) through oneDNN.

    Without these instructions oneDNN saturates intermediate sums at 16 bits.
    """
    if not torch.backends.mkldnn.is_available() or platform.machine() not in ("x86_64", "AMD64"):
        return False
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


class IntegerLinear(nn.Module):
    """Linear layer on uint8 inputs and int8 weights, with float32 output.

    y = (q(x) - z) W^T * (s_x * s_w) + b, the product accumulated in int32. State: `weight` int8
    (out, in), `weight_scale` float32 (out,), `input_scale` and `input_zero_point` scalars, `bias`.
    With several `groups` of columns, `weight_scale` is (out, groups) and the product is computed
    in float32 on the dequantized weight. `bits` is the width of the codes in a saved model. The
    inputs numbered `outliers` int64 (k,) are multiplied by `outlier_weight` float32 (out, k)
    instead; their integers are 0.
    """

    weight: Tensor
    weight_scale: Tensor
    input_scale: Tensor
    input_zero_point: Tensor
    bias: Tensor | None
    outliers: Tensor | None
    outlier_weight: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        levels: int = 255,
        bits: int = 8,
        groups: int = 1,
        outliers: int = 0,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.levels = in_features, out_features, levels
        self.bits, self.groups = bits, groups
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(_scale_shape(out_features, groups)))
        self.register_buffer("input_scale", torch.ones(()))
        self.register_buffer("input_zero_point", torch.zeros(()))
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)
        apart = torch.zeros(outliers, dtype=torch.int64) if outliers else None
        self.register_buffer("outliers", apart)
        own = torch.zeros(out_features, outliers) if outliers else None
        self.register_buffer("outlier_weight", own)
        self._kernel: Callable[[Tensor], Tensor] | None = None
        self._integer = has_integer_kernel()

    @classmethod
    @torch.no_grad()
    def from_fake(cls, layer: QuantLinear) -> Self:
        """Return the integers of a calibrated `layer`."""
        quantizer = layer.input_quantizer
        integers, scale = layer.weight_quantizer.integers(layer.without_outliers(layer.weight))
        made = cls(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            levels=quantizer.levels,
            bits=layer.weight_quantizer.spec.bits,
            groups=scale.shape[-1],
            outliers=len(layer.outliers),
        ).to(layer.weight.device)
        made.weight.copy_(integers)
        made.weight_scale.copy_(_per_row(scale))
        made.input_scale.copy_(quantizer.positive_step())
        made.input_zero_point.copy_(quantizer.zero_point)
        if made.bias is not None:
            made.bias.copy_(layer.bias)
        if made.outliers is not None and made.outlier_weight is not None:
            made.outliers.copy_(layer.outliers)
            made.outlier_weight.copy_(layer.weight[:, layer.outliers])
        return made.train(layer.training)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        if self._kernel is None:
            integer = self._integer and self.weight.is_cpu and self.groups == 1
            self._kernel = self._packed() if integer else self._dequantized
        product = self._kernel(x)
        if self.outliers is None or self.outlier_weight is None:
            return product
        return product.add_(x[..., self.outliers].float() @ self.outlier_weight.T)

    def keep_outputs(self, rows: Tensor) -> None:
        """Keep only these outputs, in place."""
        self.weight, self.weight_scale = self.weight[rows], self.weight_scale[rows]
        if self.bias is not None:
            self.bias = self.bias[rows]
        if self.outlier_weight is not None:
            self.outlier_weight = self.outlier_weight[rows]
        self.out_features, self._kernel = len(rows), None

    def keep_inputs(self, columns: Tensor) -> None:
        """Keep only these inputs, in place. Raises QualaError where that divides a group."""
        size = self.in_features // self.groups
        if self.groups > 1:
            starts = columns[::size]
            groups = starts // size
            whole = (starts[:, None] + torch.arange(size, device=columns.device)).flatten()
            if len(columns) % size or not (starts % size == 0).all() or not whole.equal(columns):
                raise QualaError(
                    f"Weights in groups of {size} columns cannot be cut to {len(columns)}."
                )
            self.weight_scale, self.groups = self.weight_scale[:, groups], len(groups)
            if self.groups == 1:
                self.weight_scale = self.weight_scale.squeeze(-1)
        if self.outliers is not None and self.outlier_weight is not None:
            places = {int(column): place for place, column in enumerate(columns)}
            kept = [one for one, old in enumerate(self.outliers.tolist()) if old in places]
            moved = [places[int(self.outliers[one])] for one in kept]
            self.outlier_weight = self.outlier_weight[:, kept] if kept else None
            self.outliers = self.outliers.new_tensor(moved) if kept else None
        self.weight = self.weight[:, columns].contiguous()
        self.in_features, self._kernel = len(columns), None

    def float_product(self, x: Tensor) -> Tensor:
        """Multiply an input that stays float by the weight of the integers."""
        return functional.linear(x.float(), self.float_weight(), self.bias)

    def float_weight(self) -> Tensor:
        """Return the float32 weight of the integers and outliers, (out, in)."""
        weight = _scaled(self.weight, self.weight_scale)
        if self.outliers is not None and self.outlier_weight is not None:
            weight[:, self.outliers] = self.outlier_weight
        return weight

    def _dequantized(self, x: Tensor) -> Tensor:
        rounded = affine_integers(x.float(), self.input_scale, self.input_zero_point)
        rounded.clamp_(0, self.levels).sub_(self.input_zero_point).mul_(self.input_scale)
        return functional.linear(rounded, _scaled(self.weight, self.weight_scale), self.bias)

    def _packed(self) -> Callable[[Tensor], Tensor]:
        """Return the layer as a closure on a weight in the layout of oneDNN."""
        product = torch.ops.onednn.qlinear_pointwise
        packed = torch.ops.onednn.qlinear_prepack(self.weight, None)
        weight_zeros = torch.zeros(self.out_features, dtype=torch.int64)
        step, zero_point = self.input_scale.item(), int(self.input_zero_point.item())
        shift = self.input_zero_point - 128

        def multiply(x: Tensor) -> Tensor:
            # Casting float to uint8 is scalar code, to int8 it is vectorized: 8 times faster.
            signed = affine_integers(x.float(), self.input_scale, shift)
            signed = signed.clamp_(-128, self.levels - 128).to(torch.int8)
            unsigned = signed.view(torch.uint8).bitwise_xor_(128)
            product_of: Tensor = product(
                unsigned, step, zero_point, packed, self.weight_scale, weight_zeros, self.bias,
                1.0, 0, torch.float32, "none", [], "",
            )  # fmt: skip
            return product_of

        return multiply

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._kernel = None
        super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._kernel = None
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # A packed weight cannot be copied; the copy packs again.
        return {**self.__dict__, "_kernel": None}


class IntegerEmbedding(nn.Module):
    """Embedding that gathers int8 rows and multiplies them by their scales.

    State: `weight` (V, H), `scale` (V,), or (V, groups) with several `groups` of columns. `bits`
    is the width of the codes in a saved model.
    """

    weight: Tensor
    scale: Tensor

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, bits: int = 8, groups: int = 1
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.bits, self.groups = bits, groups
        rows = torch.zeros(num_embeddings, embedding_dim, dtype=torch.int8)
        self.register_buffer("weight", rows)
        self.register_buffer("scale", torch.ones(_scale_shape(num_embeddings, groups)))

    @classmethod
    @torch.no_grad()
    def from_fake(cls, layer: QuantEmbedding) -> Self:
        """Return the integers of `layer`."""
        integers, scale = layer.weight_quantizer.integers(layer.weight)
        bits, groups = layer.weight_quantizer.spec.bits, scale.shape[-1]
        made = cls(layer.num_embeddings, layer.embedding_dim, bits=bits, groups=groups)
        made.to(layer.weight.device)
        made.weight.copy_(integers)
        made.scale.copy_(_per_row(scale))
        return made.train(layer.training)

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Tensor:
        rows = functional.embedding(ids, self.weight)  # (..., H) int8
        return _scaled(rows, self.scale[ids])

    def float_weight(self) -> Tensor:
        """Return the float32 rows of the integers, (V, H)."""
        return _scaled(self.weight, self.scale)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


def _scale_shape(rows: int, groups: int) -> tuple[int, ...]:
    return (rows,) if groups == 1 else (rows, groups)


def _per_row(scale: Tensor) -> Tensor:
    """Return scales (rows or 1, groups) as (rows or 1,) where a row is one group."""
    return scale.squeeze(-1) if scale.shape[-1] == 1 else scale


def _scaled(codes: Tensor, scale: Tensor) -> Tensor:
    """Multiply int8 `codes` (..., columns) by their `scale` (...) or (..., groups)."""
    values = codes.float()
    if scale.dim() < codes.dim():
        return values.mul_(scale.unsqueeze(-1))
    size = codes.shape[-1] // scale.shape[-1]
    return values.reshape(*scale.shape, size).mul_(scale.unsqueeze(-1)).reshape(codes.shape)


def to_integer(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Return `model` with its calibrated quantized layers as integer layers, for inference.

    Raises:
        QualaError: when a layer was never calibrated, or no layer is quantized.
    """
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, (QuantLinear, QuantEmbedding))
    ]
    if not found:
        raise QualaError("`to_integer` got a model without quantized layers; quantize it first.")
    for name, module in found:
        if isinstance(module, QuantLinear) and module.input_quantizer.observations == 0:
            raise QualaError(f"`{name}` has no range; calibrate the model before `to_integer`.")
    target = model if inplace else copy.deepcopy(model)
    for name, module in found:
        if isinstance(module, QuantLinear):
            target.set_submodule(name, IntegerLinear.from_fake(module))
        else:
            target.set_submodule(name, IntegerEmbedding.from_fake(module))
    return target


IntegerLayer = IntegerLinear | IntegerEmbedding


def integer_layers(model: nn.Module) -> dict[str, IntegerLayer]:
    """Return the integer layers of `model` by name, in module order."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (IntegerLinear, IntegerEmbedding))
    }


def precision_of(model: nn.Module) -> str:
    """Return `fp32`, `int8`, or for narrower integers their bits, such as `w2e2a8`.

    `w` is for linear weights, `e` for embeddings (32 if they are float), `a` for the inputs of
    linear layers; several widths of a kind are joined, `w2-4`. `int8` has 8-bit linear layers and
    8-bit or float embeddings.
    """
    weights, embeddings, inputs = _bits_by_kind(model)
    if not weights:
        return "fp32"
    if weights | embeddings | inputs == {8}:
        return "int8"
    return f"w{_joined(weights)}e{_joined(embeddings)}a{_joined(inputs)}"


def bits_of(model: nn.Module) -> str:
    """Return the bits of weights, embeddings and activations, such as `2-2-8`; 32 is float.

    Several widths of a kind are joined, `2/4-8-8`.
    """
    return "-".join(_joined(widths, "/") for widths in _bits_by_kind(model))


def _bits_by_kind(model: nn.Module) -> tuple[set[int], set[int], set[int]]:
    """Return the bits of linear weights, embeddings and inputs; a kind that is float has none."""
    layers = integer_layers(model).values()
    linears = [layer for layer in layers if isinstance(layer, IntegerLinear)]
    return (
        {layer.bits for layer in linears},
        {layer.bits for layer in layers if isinstance(layer, IntegerEmbedding)},
        {(layer.levels + 1).bit_length() - 1 for layer in linears},
    )


def _joined(widths: set[int], sign: str = "-") -> str:
    return sign.join(map(str, sorted(widths or {32})))


def weight_counts(model: nn.Module) -> tuple[int, int]:
    """Count the weights and biases of a float or integer model, and those that are not zero.

    Scales and zero points are not counted. Pruning makes zeros, and so does rounding to few bits.
    """
    tensors: list[Tensor] = list(model.parameters())
    for layer in integer_layers(model).values():
        tensors.append(layer.float_weight())  # with its outliers
        if isinstance(layer, IntegerLinear) and layer.bias is not None:
            tensors.append(layer.bias)
    total = sum(tensor.numel() for tensor in tensors)
    return total, sum(int(tensor.count_nonzero()) for tensor in tensors)
