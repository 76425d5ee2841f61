"""Integer kernels as nodes: number by number in ONNX Runtime, and whole models in OpenVINO too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

from quala.compress import kernels
from quala.compress.kernels import replace_kernels
from quala.graph.encoder import build_graph
from quala.graph.kernels import integer_gelu, integer_norm, integer_softmax
from quala.graph.specialize import Shape, specialize
from quala.lengths import LengthConfig
from quala.models.adaptive import LengthAdaptiveModel
from quala.onnx_builder import GraphBuilder
from quala.runtime.engine import open_engine

Build = Callable[..., LengthAdaptiveModel]
MakeBatch = Callable[..., dict[str, Tensor]]
FAMILIES = ("bert", "roberta", "electra", "distilbert", "mpnet", "deberta-v2")
LENGTHS = [None, LengthConfig((24, 12, 6), 32)]


def graph_of(add: Callable[[GraphBuilder, str], str]) -> onnx.ModelProto:
    g = GraphBuilder()
    made = add(g, "x")
    g.nodes.append(onnx.helper.make_node("Identity", [made], ["y"]))
    sizes: list[str | int] = ["rows", "columns"]
    kind = (TensorProto.FLOAT, sizes)
    return g.model(inputs={"x": kind}, outputs={"y": kind}, doc="")


def in_runtime(graph: onnx.ModelProto, runtime: str, inputs: dict[str, Any]) -> NDArray[Any]:
    data = graph.SerializeToString()
    if runtime == "onnxruntime":
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, inputs)[0])
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(openvino.Core().read_model(data), "CPU", options)
    return np.asarray(compiled(inputs)[0])


def gelu_inputs() -> NDArray[np.float32]:
    return (np.arange(-150_000, 150_000, dtype=np.float32) / 1024).reshape(100, -1)


def logits() -> NDArray[np.float32]:
    every = -np.arange(34_000, dtype=np.float32).reshape(-1, 1) / 1024
    return np.hstack([np.zeros_like(every), every, np.full_like(every, -3e38)])


def norm_inputs() -> NDArray[np.float32]:
    drawn = np.random.default_rng(0).normal(size=(3000, 384)) * np.logspace(-4, 2, 3000)[:, None]
    drawn[::7, 5] *= 40
    return drawn.astype(np.float32)


KERNELS: dict[str, tuple[Any, Any, Any]] = {
    "gelu": (kernels.gelu, integer_gelu, gelu_inputs),
    "softmax": (kernels.softmax, integer_softmax, logits),
    "layernorm": (kernels.normalized, lambda g, x: integer_norm(g, x, 384), norm_inputs),
}


@pytest.mark.parametrize("name", KERNELS)
def test_onnx_runtime_has_the_integers_of_pytorch(name: str) -> None:
    kernel, add, inputs = KERNELS[name]
    x = inputs()
    found = in_runtime(graph_of(add), "onnxruntime", {"x": x})
    np.testing.assert_array_equal(found, kernel(torch.from_numpy(x)).numpy())


@pytest.mark.parametrize("name", KERNELS)
def test_openvino_is_at_most_a_code_off(name: str) -> None:
    kernel, add, inputs = KERNELS[name]
    x = inputs()
    found = in_runtime(graph_of(add), "openvino", {"x": x})
    np.testing.assert_allclose(found, kernel(torch.from_numpy(x)).numpy(), atol=1e-4)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_graph_agrees_with_its_model(
    family: str, runtime: str, build: Build, make_batch: MakeBatch
) -> None:
    model = build(family, significance="column_sum").float()
    batch = make_batch([7, 20, 32, 1], family=family)
    real, plain = batch["attention_mask"].bool(), [model(batch, kept) for kept in LENGTHS]
    replace_kernels(model.hf, kernels.KERNELS)
    graph, full = build_graph(model, sequence_length=32), LengthConfig((32, 32, 32), 32)
    engine = open_engine(runtime, graph, full, threads=1)
    for kept, floats in zip(LENGTHS, plain, strict=True):
        found = engine.logits({name: one.numpy() for name, one in batch.items()}, kept)
        expected = model(batch, kept)[real].detach().numpy()
        np.testing.assert_allclose(found[real.numpy()], expected, atol=1e-2)
        assert np.abs(expected - floats[real].detach().numpy()).max() > 1.5e-2


def test_no_fused_operator_takes_the_place_of_integer_attention(build: Build) -> None:
    model = build().float()
    replace_kernels(model.hf, ["softmax"])
    graph = build_graph(model, sequence_length=32)
    fused = specialize(graph, Shape(drops=frozenset(), padded=False), fuse=True)
    assert "MultiHeadAttention" not in {node.op_type for node in fused.graph.node}
