"""A graph cut down to one kind of call computes what the whole graph computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from torch import Tensor

from quala.graph.encoder import build_graph
from quala.graph.specialize import Shape, specialize
from quala.models.adaptive import LengthAdaptiveModel

Build = Callable[..., LengthAdaptiveModel]
MakeBatch = Callable[..., dict[str, Tensor]]
FULL, ONE, TWO = (32, 32, 32), (32, 12, 12), (16, 16, 5)


@pytest.fixture(params=["bert", "mpnet", "modernbert"])
def graph(request: pytest.FixtureRequest, build: Build) -> onnx.ModelProto:
    model = build(request.param, significance="span").float()
    return build_graph(model, sequence_length=32)


def run(graph: onnx.ModelProto, batch: dict[str, Tensor], lengths: tuple[int, ...]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    words = {name: values.numpy() for name, values in batch.items()}
    feeds = words | {"lengths": np.array(lengths)}
    return list(session.run(None, {item.name: feeds[item.name] for item in session.get_inputs()}))


@pytest.mark.parametrize(
    ("drops", "lengths"), [(set(), FULL), ({1}, ONE), ({0, 2}, TWO), ({0, 1, 2}, TWO)]
)
@pytest.mark.parametrize("fuse", [False, True])
def test_known_drops_change_nothing(
    graph: onnx.ModelProto,
    make_batch: MakeBatch,
    drops: set[int],
    lengths: tuple[int, ...],
    fuse: bool,
) -> None:
    for tokens, padded in (([20, 20], False), ([7, 20, 32], True)):
        batch = make_batch(tokens)
        small = specialize(graph, Shape(frozenset(drops), padded), fuse=fuse)
        mask = batch["attention_mask"].bool().numpy()
        expected, found = run(graph, batch, lengths)[0], run(small, batch, lengths)[0]
        np.testing.assert_allclose(found[mask], expected[mask], atol=1e-4)


@pytest.mark.parametrize(("drops", "lengths"), [(set(), FULL), ({0, 2}, TWO)])
def test_integer_products_take_their_biases_along(
    integer: LengthAdaptiveModel,
    make_batch: MakeBatch,
    drops: set[int],
    lengths: tuple[int, ...],
) -> None:
    graph = build_graph(integer, sequence_length=32)
    shape, batch = Shape(frozenset(drops), padded=True), make_batch([7, 20, 32])
    plain, fused = (specialize(graph, shape, fuse=fuse) for fuse in (False, True))
    kinds = [node.op_type for node in fused.graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 3 * 4  # queries, keys and values are one product
    assert kinds.count("DequantizeLinear") == 0
    expected, found = run(plain, batch, lengths)[0], run(fused, batch, lengths)[0]
    assert np.array_equal(found, expected)


def test_a_full_length_graph_ranks_nothing(graph: onnx.ModelProto) -> None:
    small = specialize(graph, Shape(frozenset(), padded=False))
    kinds = {node.op_type for node in small.graph.node}
    assert kinds.isdisjoint({"If", "TopK", "GatherND"})


def test_survivors_are_the_places_kept(graph: onnx.ModelProto, make_batch: MakeBatch) -> None:
    batch = make_batch([10, 32])
    small = specialize(graph, Shape(frozenset({0, 2})))
    logits, first, taken, second, left = run(small, batch, TWO)
    assert logits.shape == (2, 32, 2)
    assert (first.shape, second.shape) == ((2, 16), (2, 5))
    assert (taken.sum(axis=1).tolist(), left.sum(axis=1).tolist()) == ([5, 16], [2, 5])
    for row in range(2):
        assert set(second[row][left[row]]) <= set(first[row][taken[row]])


def test_unread_constants_are_left_out(build: Build) -> None:
    graph = build_graph(build(significance="span").float(), sequence_length=32)
    small = specialize(graph, Shape(frozenset(), padded=False))
    assert small.ByteSize() < graph.ByteSize()
