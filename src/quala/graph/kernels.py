"""Integer kernels as ONNX nodes: the same numbers as those of `quala.compress.kernels`."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from quala.compress import kernels
from quala.onnx_builder import GraphBuilder


def _float(g: GraphBuilder, value: float) -> str:
    return g.constant(value, np.float32)


def _codes(g: GraphBuilder, x: str, unit: int, top: int | None = None) -> str:
    """Round to the grid of a kernel's input, within `top`."""
    codes = g("Round", g("Mul", x, _float(g, unit)))
    return codes if top is None else g("Clip", codes, _float(g, -top), _float(g, top))


def integer_gelu(g: GraphBuilder, x: str) -> str:
    """Add `kernels.gelu`."""
    q = _codes(g, x, kernels.UNIT, kernels.GELU_TOP)
    edge, one = _float(g, kernels.GELU_EDGE), _float(g, kernels.GELU_ONE)
    left = g("Sub", edge, g("Min", g("Abs", q), edge))
    erf = g("Mul", g("Sub", one, g("Mul", left, left)), g("Sign", q))
    share = g("Floor", g("Mul", g("Add", erf, one), _float(g, 2.0**-kernels.GELU_SHIFT)))
    return g("Mul", g("Mul", share, q), _float(g, kernels.GELU_SCALE))


def integer_softmax(g: GraphBuilder, x: str) -> str:
    """Add `kernels.softmax`."""
    q, last = _codes(g, x, kernels.UNIT), g.constant([-1], np.int64)
    below = g("Sub", g("ReduceMax", q, last, keepdims=1), q)
    q = g("Min", below, _float(g, kernels.SOFTMAX_FARTHEST))
    octave, half = _float(g, kernels.OCTAVE), _float(g, 0.5)
    halvings = g("Floor", g("Mul", g("Add", q, half), _float(g, 1 / kernels.OCTAVE)))
    u = g("Sub", q, g("Mul", halvings, octave))
    power = g("Mul", g("Sub", u, _float(g, kernels.EXP_SLOPE)), u)
    # Half a unit more keeps the floor right where a runtime's power of two is not exact.
    power = g("Add", power, _float(g, kernels.EXP_ONE + 0.5))
    power = g("Mul", power, _float(g, 2.0**-kernels.EXP_SHIFT))
    power = g("Floor", g("Mul", power, g("Exp", g("Mul", halvings, _float(g, -np.log(2))))))
    total = g("ReduceSum", power, last, keepdims=1)
    wide = g("Cast", total, to=TensorProto.INT32)
    two, all_ = g.constant(2, np.int32), g.constant(kernels.INVERSE, np.int32)
    inverse = g("Div", g("Add", all_, g("Div", wide, two)), wide)
    power = g("Mul", power, g("Cast", inverse, to=TensorProto.FLOAT))
    return g("Mul", power, _float(g, kernels.SOFTMAX_SCALE))


def integer_norm(g: GraphBuilder, x: str, width: int) -> str:
    """Add `kernels.normalized`."""
    q, last = _codes(g, x, kernels.NORM_UNIT, kernels.NORM_TOP), g.constant([-1], np.int64)
    total = g("ReduceSum", g("Cast", q, to=TensorProto.INT32), last, keepdims=1)
    total = g("Add", total, g.constant(width // 2, np.int32))
    total = g("Cast", total, to=TensorProto.DOUBLE)
    mean = g("Floor", g("Div", total, g.constant(width, np.float64)))
    y = g("Sub", q, g("Cast", mean, to=TensorProto.FLOAT))
    size = g("Abs", y)
    largest = g("ReduceMax", size, last, keepdims=1)
    reached = g("GreaterOrEqual", largest, g.constant(kernels.SHIFTS, np.float32))
    shift = g("ReduceSum", g("Cast", reached, to=TensorProto.INT32), last, keepdims=1)
    powers = 2.0 ** np.arange(len(kernels.SHIFTS) + 1)
    power = g("Gather", g.constant(powers, np.float32), shift)
    small = g("Mul", size, g("Gather", g.constant(1 / powers, np.float32), shift))
    small = g("Floor", g("Add", small, _float(g, 0.5)))
    squares = g("Cast", g("Mul", small, small), to=TensorProto.INT32)
    squares = g("ReduceSum", squares, last, keepdims=1)
    root = g("Floor", g("Sqrt", g("Cast", squares, to=TensorProto.DOUBLE)))
    root = g("Mul", g("Cast", root, to=TensorProto.FLOAT), power)
    root = g("Cast", g("Max", root, _float(g, kernels.NORM_LEAST)), to=TensorProto.INT32)
    factor = g("Div", g.constant(kernels.INVERSE, np.int32), root)
    y = g("Mul", y, g("Cast", factor, to=TensorProto.FLOAT))
    return g("Mul", y, _float(g, kernels.norm_scale(width)))
