"""Heads, neurons and layers cut out of a graph leave what PyTorch cuts out of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor
from toys import FAMILIES, TASKS, removable

from quala.architecture import ELASTIC
from quala.checkpoint import cut_out
from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.integer import to_integer
from quala.compress.quantize.split import split_ternary
from quala.compress.quantize.transform import calibrate, quantize
from quala.compress.shrink import factorize
from quala.errors import QualaError
from quala.graph.encoder import build_graph
from quala.graph.specialize import Shape, cut_layers, specialize
from quala.lengths import LengthConfig, read_layers
from quala.models.adaptive import LengthAdaptiveModel
from quala.runtime.engine import open_engine

Build = Callable[..., LengthAdaptiveModel]
MakeBatch = Callable[..., dict[str, Tensor]]
FULL = LengthConfig((32, 32, 32), 32)
POINTS = {
    "uniform": ("2x16", FULL),
    "mixed": ("4x8,1x32,3x20", LengthConfig((24, 12, 6), 32)),
    "left out": ("2x16,-,4x32", LengthConfig((24, 24, 5), 32)),
    "the last left out": ("3x32,1x8,-", LengthConfig((32, 12, 12), 32)),
}
TRAINED = [
    ("bert", "question-answering", "span"),
    ("roberta", "classification", "column_sum"),
    ("distilbert", "token-classification", "cls"),
    ("electra", "embedding", "column_sum"),
    ("modernbert", "question-answering", "question"),
    ("deberta-v2", "classification", "column_sum"),
    ("mpnet", "question-answering", "span"),
]


@torch.no_grad()
def elastic(model: LengthAdaptiveModel) -> LengthAdaptiveModel:
    """Mark a model as elastic; its biases are not zero any more."""
    generator = torch.Generator().manual_seed(1)
    for name, values in model.hf.named_parameters():
        if name.endswith("bias"):
            noise = torch.randn(values.shape, generator=generator, dtype=torch.float32)
            values.add_(0.3 * noise)
    setattr(model.hf.config, ELASTIC, ["", "2x16"])
    return model.float()


def point(name: str, family: str = "bert") -> LengthConfig:
    """Return a sub-network at its lengths; all heads where none can be cut."""
    text, lengths = POINTS[name]
    if removable(family, True) is None:
        text = ",".join(part if part == "-" else f"4x{part[2:]}" for part in text.split(","))
    return lengths.of(read_layers(text, layers=3))


def agree(
    model: LengthAdaptiveModel,
    graph: onnx.ModelProto,
    config: LengthConfig,
    make_batch: MakeBatch,
    atol: float = 1e-5,
) -> None:
    """Compare a sub-network of the graph with PyTorch's, with padding and without."""
    small = cut_out(model, config.layers)
    engine = open_engine("onnxruntime", graph, FULL, threads=1)
    for tokens in ([20, 20], [7, 20, 32]):
        batch = make_batch(tokens, family=model.arch.family)
        expected = small(batch, config.extracted).detach().numpy()
        found = engine.logits({name: one.numpy() for name, one in batch.items()}, config)
        real = batch["attention_mask"].bool().numpy() if expected.ndim == 3 else ...
        np.testing.assert_allclose(found[real], expected[real], rtol=1e-5, atol=atol)


@pytest.mark.parametrize("name", sorted(POINTS))
@pytest.mark.parametrize(("family", "kind", "significance"), TRAINED)
def test_a_graph_that_is_cut_is_the_model_that_is_cut_out(
    family: str, kind: str, significance: str, name: str, build: Build, make_batch: MakeBatch
) -> None:
    model = elastic(build(family, kind, significance=significance))
    graph = build_graph(model, sequence_length=32)
    agree(model, graph, point(name, family), make_batch)


def compressed(
    model: LengthAdaptiveModel, batch: dict[str, Tensor], *, split: bool = False, **options: Any
) -> LengthAdaptiveModel:
    def observe() -> None:
        model(batch)

    quantize(model.hf, QuantizeConfig(**options))
    calibrate(model.hf, observe)
    if split:
        split_ternary(model.hf)
    to_integer(model.hf, inplace=True)
    return model


GROUPED = {"weight_bits": 4, "weight_granularity": "group", "weight_group": 4}


@pytest.mark.parametrize("name", sorted(POINTS))
@pytest.mark.parametrize(
    ("family", "options"),
    [("bert", {}), ("modernbert", {}), ("distilbert", GROUPED)],
    ids=["bert", "modernbert", "groups"],
)
def test_integers_are_cut_as_pytorch_cuts_them(
    family: str, options: dict[str, Any], name: str, build: Build, make_batch: MakeBatch
) -> None:
    model = elastic(build(family, significance="span"))
    compressed(model, make_batch([7, 20, 32], family=family), **options)
    graph = build_graph(model, sequence_length=32)
    agree(model, graph, point(name), make_batch, atol=2e-3)


@torch.no_grad()
def test_both_halves_of_a_split_layer_are_cut(build: Build, make_batch: MakeBatch) -> None:
    batch = make_batch([7, 20, 32])
    model = elastic(build(significance="span"))
    compressed(model, batch, split=True, weight_quantizer="twn", weight_bits=2)
    config = point("left out")
    engine = open_engine("onnxruntime", build_graph(model, sequence_length=32), FULL, threads=1)
    found = engine.logits({name: one.numpy() for name, one in batch.items()}, config)
    for layer, units in enumerate(config.layers):  # units whose outputs nobody reads
        block: Any = model.family.block(model.family.layers(model.hf)[layer])
        if units is not None:
            for out, kept in (
                (block.attention_out, 4 * units.heads),
                (block.ffn_out, units.neurons),
            ):
                for half in (out.first, out.second):
                    half.weight[:, kept:], half._kernel = 0, None
    expected = model(batch, config.whole, skip_layers=config.left_out).numpy()
    real = batch["attention_mask"].bool().numpy()
    np.testing.assert_allclose(found[real], expected[real], atol=2e-3)


@pytest.mark.parametrize("integer", [False, True])
def test_of_two_factors_the_outer_sides_are_cut(
    integer: bool, build: Build, make_batch: MakeBatch
) -> None:
    model = build(significance="span").float()
    model.hf = factorize(model.hf, 1.5)
    elastic(model)
    if integer:
        compressed(model, make_batch([7, 20, 32]))
    graph = build_graph(model, sequence_length=32)
    for name in ("mixed", "left out"):
        agree(model, graph, point(name), make_batch, atol=2e-3 if integer else 1e-5)
    small: Any = cut_out(model, point("uniform").layers).hf
    if integer:
        assert len(small.bert.encoder.layer[0].attention.self.query.up.weight_scale) == 8


@pytest.mark.parametrize("drops", [None, frozenset({0, 2})])
def test_a_part_of_a_graph_holds_what_is_smaller(
    drops: frozenset[int] | None, build: Build
) -> None:
    graph = build_graph(elastic(build(significance="span")), sequence_length=32)
    largest, small = read_layers("3x20,-,2x32", layers=3), read_layers("3x8,-,1x20", layers=3)
    held = cut_layers(graph, largest)
    assert held.ByteSize() < graph.ByteSize()
    parts = [specialize(each, Shape(drops, True, small), fuse=True) for each in (graph, held)]
    assert parts[0].SerializeToString() == parts[1].SerializeToString()
    assert "If" not in {node.op_type for node in parts[0].graph.node} or drops is None
    assert not any("_1_" in output.name for output in parts[0].graph.output)
    with pytest.raises(QualaError, match="holds 3x20,-,2x32, got 3x20,1x1,2x32"):
        cut_layers(held, read_layers("3x20,1x1,2x32", layers=3))
    with pytest.raises(QualaError, match="no layer 1 that drops tokens"):
        specialize(held, Shape(frozenset({1}), True))


def test_all_units_are_the_whole_graph(build: Build) -> None:
    graph = build_graph(elastic(build()), sequence_length=32)
    whole = read_layers("4x32", layers=3)
    assert cut_layers(graph, whole).graph.initializer == graph.graph.initializer
    assert cut_layers(graph, whole).graph.node == graph.graph.node


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "albert"])
def test_an_elastic_graph_has_the_logits_of_one_that_is_not(
    family: str, build: Build, make_batch: MakeBatch
) -> None:
    model = elastic(build(family))
    graph = build_graph(model, sequence_length=32)
    delattr(model.hf.config, ELASTIC)
    plain = build_graph(model, sequence_length=32)
    batch = {name: one.numpy() for name, one in make_batch([7, 20], family=family).items()}
    found, expected = (
        open_engine("onnxruntime", each, FULL, threads=1).logits(batch, POINTS["mixed"][1])
        for each in (graph, plain)
    )
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("family", "text", "message"),
    [
        ("bert", "5x32", "holds 4x32, got 5x32"),
        ("bert", "4x33,-,4x32", "holds 4x32, got 4x33,-,4x32"),
        ("mpnet", "2x16", "keeps all 4 heads, got 2x16"),
        ("modernbert", "-,4x32,4x32", "cannot be left out, got -,4x32,4x32"),
    ],
)
def test_what_a_graph_does_not_hold_is_refused(
    family: str, text: str, message: str, build: Build
) -> None:
    graph = build_graph(elastic(build(family)), sequence_length=32)
    with pytest.raises(QualaError, match=message):
        cut_layers(graph, read_layers(text, layers=3))
    with pytest.raises(QualaError, match="Expected units of 3 layers, got 2"):
        cut_layers(graph, read_layers("2x16", layers=2))


def test_graphs_without_sub_networks_are_refused(build: Build) -> None:
    graph = build_graph(build().float(), sequence_length=32)
    with pytest.raises(QualaError, match="only the exports of elastic models"):
        specialize(graph, Shape(layers=read_layers("2x16", layers=3)))


def test_layers_that_are_one_are_refused(build: Build) -> None:
    with pytest.raises(QualaError, match="cannot be pruned"):
        build_graph(elastic(build("albert")), sequence_length=32)


@pytest.mark.parametrize("name", sorted(POINTS))
def test_inputs_that_stay_float_are_left_out_with_their_units(
    name: str, build: Build, make_batch: MakeBatch
) -> None:
    model = elastic(build(significance="span"))
    layers: Any = model.family.layers(model.hf)
    with torch.no_grad():
        for place in (5, 12):  # neurons
            layers[1].intermediate.dense.weight[place] *= 60
        for place in (3, 13):  # of the first head and of the last
            layers[0].attention.self.value.weight[place] *= 60
    compressed(model, make_batch([7, 20, 32]), activation_range="minmax", outliers=2)
    assert layers[1].output.dense.outliers.tolist() == [5, 12]
    assert layers[0].attention.output.dense.outliers.tolist() == [3, 13]
    graph = build_graph(model, sequence_length=32)
    agree(model, graph, point(name), make_batch, atol=5e-3)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_integers_have_the_logits_of_a_file_of_their_own(
    family: str, build: Build, make_batch: MakeBatch
) -> None:
    model, config = elastic(build(family, significance="span")), point("left out")
    batch = make_batch([7, 20, 32], family=family)
    compressed(model, batch, activation_range="minmax", outliers=1)
    small = cut_out(model, config.layers)
    both = [
        (build_graph(model, sequence_length=32), FULL, config),
        (
            build_graph(small, sequence_length=32),
            FULL.of(config.layers).extracted,
            config.extracted,
        ),
    ]
    arrays = {name: one.numpy() for name, one in batch.items()}
    found, expected = (
        open_engine("onnxruntime", graph, full, threads=1).logits(arrays, lengths)
        for graph, full, lengths in both
    )
    real = arrays["attention_mask"].astype(bool)
    np.testing.assert_allclose(found[real], expected[real], atol=1e-6)


def test_every_task_has_an_elastic_graph() -> None:
    assert {kind for _, kind, _ in TRAINED} | {"regression"} >= set(TASKS)
