"""PyTorch modules as ONNX nodes, float or integer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, nn
from transformers.activations import GELUActivation, GELUTanh, NewGELUActivation

from quala.compress.kernels import IntegerGELU, IntegerLayerNorm
from quala.compress.low_rank import FactorizedEmbedding, FactorizedLinear
from quala.compress.quantize.integer import IntegerEmbedding, IntegerLinear
from quala.compress.quantize.split import Split
from quala.errors import QualaError
from quala.graph.kernels import integer_gelu, integer_norm
from quala.onnx_builder import Cut, GraphBuilder

LEVELS = 255  # steps between the 256 values of an 8-bit activation
Floats = NDArray[Any]


def array(tensor: Tensor) -> Floats:
    """Return a tensor's values, in float32 unless they are integers."""
    values = tensor.detach().cpu()
    return np.asarray((values.float() if values.is_floating_point() else values).numpy())


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A linear layer, its output multiplied by `factor`, one for all or one for each.

    `cut` says where the units of sub-networks are in its weight as (in, out).
    """

    module: nn.Module
    factor: float | Floats = 1.0
    cut: Cut | None = None

    def times(self, rows: Floats) -> Floats:
        """Multiply what there is of each output."""
        return np.asarray((rows.T * self.factor).T)

    @property
    def rows(self) -> int:
        """Number of outputs."""
        return int(cast("int", self.module.out_features))

    @property
    def bias(self) -> Floats:
        """The bias, zeros where the layer has none."""
        bias = cast("Tensor | None", self.module.bias)
        return np.zeros(self.rows, np.float32) if bias is None else self.times(array(bias))


def linear(g: GraphBuilder, x: str, module: nn.Module, cut: Cut | None = None) -> str:
    """Apply one linear layer."""
    return _product(g, x, [Part(module, cut=cut)])


def product(g: GraphBuilder, x: str, part: Part) -> str:
    """Apply one linear layer, its outputs multiplied by the part's factors."""
    return _product(g, x, [part])


def linears(g: GraphBuilder, x: str, parts: Sequence[Part]) -> list[str]:
    """Apply linear layers to one input, as one product if their inputs have the same grid."""
    if not _one_product([part.module for part in parts]):
        return [_product(g, x, [part]) for part in parts]
    count = len(parts)
    if parts[0].cut is not None:  # into equal parts, however many units there are
        return g.many("Split", _product(g, x, parts), outputs=count, num_outputs=count, axis=-1)
    sizes = g.constant([part.rows for part in parts], np.int64)
    return g.many("Split", _product(g, x, parts), sizes, outputs=count, axis=-1)


def _one_product(modules: Sequence[nn.Module]) -> bool:
    first = modules[0]
    if not isinstance(first, IntegerLinear):
        return all(isinstance(module, nn.Linear) for module in modules)
    return all(
        isinstance(module, IntegerLinear)
        and module.input_scale.equal(first.input_scale)
        and module.input_zero_point.equal(first.input_zero_point)
        and _places(module) == _places(first)
        for module in modules
    )


def _places(layer: IntegerLinear) -> list[int]:
    """Return which inputs stay float."""
    return [] if layer.outliers is None else list(map(int, layer.outliers))


def _product(g: GraphBuilder, x: str, parts: Sequence[Part]) -> str:
    first = parts[0].module
    if isinstance(first, Split):
        halves = (replace(parts[0], module=half) for half in (first.first, first.second))
        return g("Add", *(_product(g, x, [half]) for half in halves))
    if isinstance(first, FactorizedLinear):
        cut = parts[0].cut
        inner, outer = (cut, None) if cut and not cut.axis else (None, cut)
        x = _product(g, x, [Part(first.down, cut=inner)])
        return _product(g, x, [Part(first.up, parts[0].factor, outer)])
    if isinstance(first, IntegerLinear):
        product = g("MatMul", _fake(g, x, first), _integer_weight(g, parts))
    else:
        weights = [part.times(array(cast("Tensor", part.module.weight))) for part in parts]
        product = g("MatMul", x, _stored(g, np.concatenate(weights).T, parts))
        if all(part.module.bias is None for part in parts):
            return product
    made = g("Add", product, _stored(g, np.concatenate([part.bias for part in parts]), parts))
    if not isinstance(first, IntegerLinear) or first.outliers is None:
        return made
    weights = [part.times(array(cast("Tensor", part.module.outlier_weight))) for part in parts]
    places, cut, taken = g.constant(array(first.outliers), np.int64), parts[0].cut, None
    if cut is not None and cut.axis == 0:
        # An outlier that a sub-network lacks becomes the first input, multiplied by 0.
        count = g.constant([0, 0, first.in_features], np.int64, cut=replace(cut, axis=-1))
        taken = g("Less", places, g("Gather", count, g.constant(2, np.int64)))
        places = g("Mul", places, g("Cast", taken, to=TensorProto.INT64))
    outliers = g("Gather", x, places, axis=-1)  # they stay float
    rows = np.concatenate(weights).T
    if taken is None:
        return g("Add", made, g("MatMul", outliers, _stored(g, rows, parts)))
    factors = g("Cast", g("Unsqueeze", taken, g.constant([-1], np.int64)), to=TensorProto.FLOAT)
    return g("Add", made, g("MatMul", outliers, g("Mul", g.constant(rows), factors)))


def _stored(g: GraphBuilder, values: Floats, parts: Sequence[Part]) -> str:
    """Store what has the parts' outputs last, and their inputs, if it has those, first."""
    cut = parts[0].cut
    if cut is None or (cut.axis == 0 and values.ndim == 1):
        return g.constant(values)
    axis = cut.axis and values.ndim - 1
    return g.constant(values, cut=replace(cut, axis=axis, blocks=cut.blocks * len(parts)))


def _fake(g: GraphBuilder, x: str, layer: IntegerLinear) -> str:
    """Quantize and dequantize an activation: runtimes fuse the pair into the product."""
    if layer.levels != LEVELS:
        raise QualaError(
            f"An export holds 8-bit activations, got {layer.levels + 1} levels; quantize with "
            "`quantizers.activation_bits=8`."
        )
    step = g.constant(array(layer.input_scale), np.float32)
    zero_point = g.constant(array(layer.input_zero_point).round(), np.uint8)
    return g("DequantizeLinear", g("QuantizeLinear", x, step, zero_point), step, zero_point)


def _integer_weight(g: GraphBuilder, parts: Sequence[Part]) -> str:
    layers = [(cast("IntegerLinear", part.module), part.times) for part in parts]
    if any(layer.groups > 1 for layer, _ in layers):
        # DequantizeLinear has one scale per channel here: groups of columns are written as floats.
        floats = np.concatenate([f(array(w.float_weight())) for w, f in layers]).T
        return _stored(g, floats, parts)
    integers = np.concatenate([array(layer.weight) for layer, _ in layers])
    steps = np.concatenate([times(array(layer.weight_scale)) for layer, times in layers])
    stored = _stored(g, integers.T.astype(np.int8), parts)  # (in, out)
    zeros = _stored(g, np.zeros(len(steps), np.int8), parts)
    return g("DequantizeLinear", stored, _stored(g, steps, parts), zeros, axis=1)


def embedding(g: GraphBuilder, ids: str, module: nn.Module) -> str:
    """Look up rows; int8 rows are scaled after the look-up, factorized rows multiplied."""
    if isinstance(module, Split):
        return g("Add", embedding(g, ids, module.first), embedding(g, ids, module.second))
    if isinstance(module, IntegerEmbedding) and module.groups > 1:
        return g("Gather", g.constant(array(module.float_weight())), ids)
    if isinstance(module, FactorizedEmbedding):
        return linear(g, embedding(g, ids, module.table), module.up)
    if isinstance(module, IntegerEmbedding):
        rows = g("Gather", g.constant(array(module.weight)), ids)
        steps = g("Gather", g.constant(array(module.scale)), ids)
        steps = g("Unsqueeze", steps, g.constant([-1], np.int64))
        return g("Mul", g("Cast", rows, to=TensorProto.FLOAT), steps)
    return g("Gather", g.constant(array(cast("Tensor", module.weight))), ids)


def layer_norm(g: GraphBuilder, x: str, module: nn.Module) -> str:
    """Normalize the last dimension."""
    if not isinstance(module, nn.LayerNorm):
        raise QualaError(f"An export needs LayerNorm, got {type(module).__name__}.")
    if isinstance(module, IntegerLayerNorm):
        scaled = g("Mul", integer_norm(g, x, len(module.weight)), g.constant(array(module.weight)))
        return g("Add", scaled, g.constant(array(module.bias)))
    learned = [g.constant(array(one)) for one in (module.weight, module.bias) if one is not None]
    return g("LayerNormalization", x, *learned, axis=-1, epsilon=module.eps)


def activation(g: GraphBuilder, x: str, module: nn.Module) -> str:
    """Apply GELU, exact, by tanh or on integers, or ReLU. Raises QualaError for others."""
    if isinstance(module, IntegerGELU):
        return integer_gelu(g, x)
    if isinstance(module, (GELUActivation, nn.GELU)):
        return g("Gelu", x)
    if isinstance(module, (NewGELUActivation, GELUTanh)):
        return g("Gelu", x, approximate="tanh")
    if isinstance(module, nn.ReLU):
        return g("Relu", x)
    raise QualaError(f"An export needs GELU or ReLU, got {type(module).__name__}.")
