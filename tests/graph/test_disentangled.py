"""Graphs of DeBERTa hold what does not depend on the input; those of ALBERT hold a layer once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.integer import to_integer
from quala.compress.quantize.split import split_ternary
from quala.compress.quantize.transform import calibrate, quantize
from quala.compress.shrink import factorize
from quala.graph.encoder import build_graph
from quala.graph.specialize import Shape, specialize
from quala.lengths import LengthConfig
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.families import float_product

Build = Callable[..., LengthAdaptiveModel]
MakeBatch = Callable[..., dict[str, Tensor]]
LENGTHS = [None, LengthConfig((24, 12, 6), 32), LengthConfig((32, 16, 16), 32)]

VARIANTS: dict[str, dict[str, Any]] = {
    "c2p alone": {"pos_att_type": ["c2p"]},
    "p2c alone": {"pos_att_type": ["p2c"]},
    "neither": {"pos_att_type": []},
    "own projections": {"share_att_key": False},
    "no buckets": {"position_buckets": -1, "max_relative_positions": 12},
    "absolute positions and types": {"position_biased_input": True, "type_vocab_size": 2},
}


def run(
    graph: onnx.ModelProto, batch: dict[str, Tensor], lengths: LengthConfig | None
) -> NDArray[Any]:
    """Return the logits of the real tokens."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    kept = lengths or LengthConfig.full(layers=3, sequence_length=32)
    words = {name: values.numpy() for name, values in batch.items()}
    feeds = words | {"lengths": np.array(kept.lengths)}
    feeds = {one.name: feeds[one.name] for one in session.get_inputs()}
    logits: NDArray[Any] = session.run(["logits"], feeds)[0]
    return logits[batch["attention_mask"].bool().numpy()]


def real(model: LengthAdaptiveModel, batch: dict[str, Tensor], lengths: Any) -> NDArray[Any]:
    logits: NDArray[Any] = model(batch, lengths)[batch["attention_mask"].bool()].detach().numpy()
    return logits


def integers(model: LengthAdaptiveModel, batch: dict[str, Tensor]) -> LengthAdaptiveModel:
    def observe() -> None:
        model(batch)

    quantize(model.hf, QuantizeConfig())
    calibrate(model.hf, observe)
    to_integer(model.hf, inplace=True)
    return model


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_option_is_exported(name: str, build: Build, make_batch: MakeBatch) -> None:
    model, batch = build("deberta-v2", **VARIANTS[name]).float(), make_batch([7, 20, 32])
    graph = build_graph(model, sequence_length=32)
    for lengths in LENGTHS:
        expected = real(model, batch, lengths)
        np.testing.assert_allclose(run(graph, batch, lengths), expected, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"share_att_key": False}, {"family": "albert"}])
def test_an_integer_graph_agrees_with_the_integer_model(
    options: dict[str, Any], build: Build, make_batch: MakeBatch
) -> None:
    batch = make_batch([7, 20, 32])
    model = integers(build(**{"family": "deberta-v2", **options}).float(), batch)
    graph = build_graph(model, sequence_length=32)
    for lengths in LENGTHS:
        expected = real(model, batch, lengths)
        np.testing.assert_allclose(run(graph, batch, lengths), expected, atol=2e-3)


@pytest.mark.parametrize("kind", ["factorized", "split"])
def test_the_distances_of_compressed_projections_are_theirs(
    kind: str, build: Build, make_batch: MakeBatch
) -> None:
    model, batch = build("deberta-v2", significance="column_sum").float(), make_batch([7, 20, 32])

    def observe() -> None:
        model(batch)

    if kind == "factorized":
        model.hf = factorize(model.hf, 1.5)
    ternary = {"weight_quantizer": "twn", "weight_bits": 2} if kind == "split" else {}
    quantize(model.hf, QuantizeConfig(**ternary))
    calibrate(model.hf, observe)
    name = "deberta.encoder.layer.0.attention.self.key_proj"
    rows = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    before = float_product(model.hf.get_submodule(name), rows)
    if kind == "split":
        split_ternary(model.hf)
    torch.testing.assert_close(float_product(model.hf.get_submodule(name), rows), before)
    to_integer(model.hf, inplace=True)
    layer: Any = model.hf.get_submodule(name)
    torch.testing.assert_close(float_product(layer, rows), before)
    if kind == "factorized":
        weight = layer.up.float_weight() @ layer.down.float_weight()
        torch.testing.assert_close(before, rows @ weight.T + layer.up.bias)
    graph = build_graph(model, sequence_length=32)
    for lengths in LENGTHS:
        expected = real(model, batch, lengths)
        np.testing.assert_allclose(run(graph, batch, lengths), expected, atol=2e-3)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", ["albert", "deberta-v2"])
def test_specialized_graphs_agree(
    family: str, padded: bool, build: Build, make_batch: MakeBatch
) -> None:
    model = build(family, significance="span").float()
    graph = build_graph(model, sequence_length=32)
    batch = make_batch([20, 20] if not padded else [7, 20, 32])
    for drops, lengths in (
        (frozenset(), None),
        (frozenset({0, 2}), LengthConfig((16, 16, 5), 32)),
    ):
        small = specialize(graph, Shape(drops, padded), fuse=True)
        expected = real(model, batch, lengths)
        np.testing.assert_allclose(run(small, batch, lengths), expected, atol=1e-4)


def test_pairs_are_found_once_where_nothing_is_dropped(build: Build) -> None:
    graph = build_graph(build("deberta-v2", significance="span").float(), sequence_length=32)
    full = specialize(graph, Shape(frozenset(), padded=False))
    kinds = [node.op_type for node in full.graph.node]
    assert kinds.count("GatherElements") == 2 * 3  # c2p and p2c of three layers
    assert kinds.count("Sub") == 2  # the other one is in the place of fillers


def test_the_projections_of_distances_are_constants(build: Build) -> None:
    graph = build_graph(build("deberta-v2").float(), sequence_length=32).graph
    shapes = [tuple(tensor.dims) for tensor in graph.initializer]
    assert shapes.count((1, 4, 4, 16)) == 3  # heads, head size, rows
    assert shapes.count((1, 4, 16, 4)) == 3
    assert (16, 16) in shapes  # the hidden width
    table: Any = build("deberta-v2").hf.base_model.encoder.rel_embeddings.weight
    assert not any(
        np.allclose(onnx.numpy_helper.to_array(one), table.detach().numpy())
        for one in graph.initializer
        if tuple(one.dims) == tuple(table.shape)
    )


@torch.no_grad()
def test_the_shared_layer_is_stored_once(build: Build) -> None:
    graph = build_graph(build("albert").float(), sequence_length=32).graph
    shapes = [tuple(tensor.dims) for tensor in graph.initializer]
    assert [shapes.count(shape) for shape in ((16, 48), (16, 32), (32, 16))] == [1, 1, 1]
