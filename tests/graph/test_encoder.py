"""The exported graph and PyTorch say the same, whatever the family, the ranking and the batch."""

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
from toys import PAD, removable

from quala.compress.experts import ExpertsConfig, cut_experts, route_tables
from quala.compress.prune.structured import keep_units
from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.integer import to_integer
from quala.compress.quantize.split import split_ternary
from quala.compress.quantize.transform import calibrate, quantize
from quala.compress.shrink import factorize
from quala.data.task import Span
from quala.data.task_embed import Embedding
from quala.errors import QualaError
from quala.graph.encoder import build_graph
from quala.graph.specialize import Shape, specialize
from quala.lengths import LengthConfig
from quala.models.adaptive import LengthAdaptiveModel

Build = Callable[..., LengthAdaptiveModel]
MakeBatch = Callable[..., dict[str, Tensor]]
FAMILIES = (
    "bert", "roberta", "xlm-roberta", "electra", "distilbert", "mpnet", "modernbert", "deberta-v2",
    "albert",
)  # fmt: skip
LENGTHS = [
    None,
    LengthConfig((24, 12, 6), 32),
    LengthConfig((32, 16, 16), 32),
    LengthConfig((32, 32, 2), 32),
]
KINDS_AND_STRATEGIES = [
    (kind, strategy)
    for kind in ("question-answering", "classification")
    for strategy in ("column_sum", "query_rows", "question", "cls", "span")
    if strategy != "span" or kind == "question-answering"
] + [("token-classification", "cls"), ("embedding", "column_sum")]


def opened(graph: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(
    session: onnxruntime.InferenceSession, batch: dict[str, Tensor], lengths: LengthConfig | None
) -> Any:
    kept = lengths or LengthConfig.full(layers=3, sequence_length=32)
    words = {name: batch[name].numpy() for name in ("input_ids", "attention_mask", "segment_ids")}
    return session.run(None, words | {"lengths": np.array(kept.lengths)})[0]


def real(values: NDArray[Any], batch: dict[str, Tensor]) -> NDArray[Any]:
    """Leave padding out: its logits have no meaning."""
    return values[batch["attention_mask"].bool().numpy()] if values.ndim == 3 else values


@pytest.mark.parametrize(("pooling", "normalize"), [("cls", True), ("mean", False)])
def test_the_graph_of_other_embeddings(
    pooling: Any, normalize: bool, build: Build, make_batch: MakeBatch
) -> None:
    model, batch = build("bert", "embedding").float(), make_batch([7, 20])
    model.task = Embedding(pooling=pooling, normalize=normalize)
    session = opened(build_graph(model, sequence_length=32))
    for lengths in LENGTHS:
        found, expected = run(session, batch, lengths), model(batch, lengths).detach().numpy()
        assert found.shape == (2, 16)
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("kind", "significance"), KINDS_AND_STRATEGIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_agrees_with_the_model(
    family: str, kind: str, significance: str, build: Build, make_batch: MakeBatch
) -> None:
    model = build(family, kind, significance=significance).float()
    session = opened(build_graph(model, sequence_length=32))
    for tokens in ([32], [7, 20, 32, 1], [9, 9]):
        batch = make_batch(tokens, family=family)
        for lengths in LENGTHS:
            expected = model(batch, lengths).detach().numpy()
            found = run(session, batch, lengths)
            np.testing.assert_allclose(real(found, batch), real(expected, batch), atol=1e-4)


@pytest.mark.parametrize("significance", ["question", "span"])
def test_null_answers_are_the_models(
    significance: str, build: Build, make_batch: MakeBatch
) -> None:
    model = build(significance=significance).float()
    model.task = Span(null=True)
    session = opened(build_graph(model, sequence_length=32))
    batch = make_batch([7, 20, 32, 1])
    for lengths in LENGTHS:
        expected = model(batch, lengths).detach().numpy()
        found = run(session, batch, lengths)
        np.testing.assert_allclose(real(found, batch), real(expected, batch), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_padding_token_written_in_a_text_is_read_as_by_transformers(
    family: str, build: Build, make_batch: MakeBatch
) -> None:
    model = build(family).float()
    batch = make_batch([9, 9], family=family)
    batch["input_ids"][1, 6] = PAD.get(family, 0)
    plain = model.hf(input_ids=batch["input_ids"], **types_of(model, batch))
    expected = torch.stack([plain.start_logits, plain.end_logits], dim=-1).detach().numpy()
    found = run(opened(build_graph(model, sequence_length=32)), batch, None)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def types_of(model: LengthAdaptiveModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"token_type_ids": batch["segment_ids"]} if model.arch.type_vocabulary > 1 else {}


@pytest.mark.parametrize("integer", ["bert", "mpnet", "modernbert"], indirect=True)
def test_an_integer_graph_agrees_with_the_integer_model(
    integer: LengthAdaptiveModel, make_batch: MakeBatch
) -> None:
    session = opened(build_graph(integer, sequence_length=32))
    batch = make_batch([7, 20, 32], family=integer.arch.family)
    for lengths in LENGTHS:
        expected = integer(batch, lengths).detach().numpy()
        found = run(session, batch, lengths)
        np.testing.assert_allclose(real(found, batch), real(expected, batch), atol=2e-3)


@pytest.mark.parametrize(
    ("options", "split"),
    [
        ({"weight_quantizer": "bwn", "weight_bits": 1, "weight_granularity": "tensor"}, False),
        ({"weight_bits": 4, "weight_granularity": "group", "weight_group": 8}, False),
        ({"embedding_bits": 4, "embedding_granularity": "group", "weight_group": 8}, False),
        (
            {
                "weight_quantizer": "twn",
                "weight_bits": 2,
                "embedding_quantizer": "twn",
                "embedding_bits": 2,
            },
            True,
        ),
    ],
)
def test_a_low_bit_graph_agrees_with_its_model(
    build: Build, make_batch: MakeBatch, options: dict[str, Any], split: bool
) -> None:
    model = build(significance="span").float()
    batch = make_batch([7, 20, 32])

    def observe() -> None:
        model(batch)

    quantize(model.hf, QuantizeConfig(**options))
    calibrate(model.hf, observe)
    if split:
        split_ternary(model.hf)
    to_integer(model.hf, inplace=True)
    expected = model(batch, None).detach().numpy()
    found = run(opened(build_graph(model, sequence_length=32)), batch, None)
    np.testing.assert_allclose(real(found, batch), real(expected, batch), atol=2e-3)


def test_inputs_that_stay_float_are_multiplied_apart(build: Build, make_batch: MakeBatch) -> None:
    model = build(significance="span").float()
    batch = make_batch([7, 20, 32])
    bert = model.hf.bert
    with torch.no_grad():
        bert.embeddings.LayerNorm.weight[3] *= 12  # of all that the first attention reads
        bert.encoder.layer[1].intermediate.dense.weight[5] *= 60

    def observe() -> None:
        model(batch)

    quantize(model.hf, QuantizeConfig(activation_range="minmax", outliers=1))
    calibrate(model.hf, observe)
    to_integer(model.hf, inplace=True)
    graph = build_graph(model, sequence_length=32)
    apart = [node for node in graph.graph.node if node.op_type == "Gather" and "axis" in str(node)]
    places = {t.name: onnx.numpy_helper.to_array(t).tolist() for t in graph.graph.initializer}
    taken = [places.get(node.input[1]) for node in apart]
    assert taken.count([3]) == 1  # queries, keys and values are one product
    assert [5] in taken
    for lengths in LENGTHS:
        expected = model(batch, lengths).detach().numpy()
        found = run(opened(graph), batch, lengths)
        np.testing.assert_allclose(real(found, batch), real(expected, batch), atol=2e-3)


def test_integers_are_stored_as_integers(integer: LengthAdaptiveModel) -> None:
    graph = build_graph(integer, sequence_length=32).graph
    stored = {tuple(t.dims) for t in graph.initializer if t.data_type == onnx.TensorProto.INT8}
    assert {(50, 16), (16, 48), (16, 16), (16, 32), (32, 16)} <= stored
    floats = [t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert max(int(np.prod(tensor.dims)) for tensor in floats) <= 50


def test_layers_that_drop_nothing_rank_nothing(build: Build) -> None:
    graph = build_graph(build(significance="span").float(), sequence_length=32)
    outside = [node.op_type for node in graph.graph.node]
    assert outside.count("If") == 3
    assert "TopK" not in outside


def test_reference_semantics_are_refused(build: Build) -> None:
    model = build(significance="column_sum", semantics="reference")
    with pytest.raises(QualaError, match="natural"):
        build_graph(model, sequence_length=32)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "albert"])
def test_pruned_and_factorized_layers_are_exported(
    family: str, build: Build, make_batch: MakeBatch
) -> None:
    hf = keep_units(
        build(family).float().hf,
        heads=removable(family, [[0, 2], [3], [0, 1, 2, 3]]),
        neurons=[range(16), range(2), range(30)],
    )
    small = factorize(hf, 1.5)
    model = LengthAdaptiveModel(small)
    graph = build_graph(model, sequence_length=32)
    fused = specialize(graph, Shape(frozenset(), padded=False), fuse=True)
    batch = make_batch([20, 20], family=family)
    for lengths in LENGTHS:
        expected = model(batch, lengths).detach().numpy()
        np.testing.assert_allclose(run(opened(graph), batch, lengths), expected, atol=1e-4)
    expected = model(batch).detach().numpy()
    np.testing.assert_allclose(run(opened(fused), batch, None), expected, atol=1e-4)


def routed(model: LengthAdaptiveModel) -> LengthAdaptiveModel:
    """Cut each feed-forward of 32 neurons into three experts of 8."""
    config = ExpertsConfig(count=3, size=0.25, shared=0.5)
    counts = np.ones(model.hf.config.vocab_size, np.int64)
    tables = route_tables(config, layers=3, seed=0, counts=counts)
    scores = [torch.arange(32.0).roll(layer) for layer in range(3)]
    hf = cut_experts(model.hf, config, scores=scores, tables=tables)
    return LengthAdaptiveModel(hf, task=model.task)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "albert"])
def test_the_graph_routes_as_the_model(family: str, build: Build, make_batch: MakeBatch) -> None:
    model = routed(build(family).float())
    graph = build_graph(model, sequence_length=32)
    session = opened(graph)
    for tokens in ([7, 20, 32, 1], [2]):  # of two tokens, an expert has none
        batch = make_batch(tokens, family=family)
        for lengths in LENGTHS:
            expected = model(batch, lengths).detach().numpy()
            found = run(session, batch, lengths)
            np.testing.assert_allclose(real(found, batch), real(expected, batch), atol=1e-4)
    fused = specialize(graph, Shape(frozenset(), padded=False), fuse=True)
    batch = make_batch([20, 20], family=family)
    expected = model(batch).detach().numpy()
    np.testing.assert_allclose(run(opened(fused), batch, None), expected, atol=1e-4)


def test_an_integer_graph_stores_the_table_and_each_expert_as_integers(
    build: Build, make_batch: MakeBatch
) -> None:
    model, batch = routed(build().float()), make_batch([7, 20, 32])
    quantize(model.hf, QuantizeConfig(activation_range="minmax"))

    def observe() -> None:
        model(batch)

    calibrate(model.hf, observe)
    to_integer(model.hf, inplace=True)
    graph = build_graph(model, sequence_length=32)
    kind = onnx.TensorProto.INT8
    stored = [tuple(one.dims) for one in graph.graph.initializer if one.data_type == kind]
    assert stored.count((16, 8)) == stored.count((8, 16)) == 9  # 3 layers of 3 experts
    assert stored.count((model.hf.config.vocab_size,)) == 3
    fused = specialize(graph, Shape(frozenset(), padded=True), fuse=True)
    session = opened(graph)
    for lengths in LENGTHS:
        expected = model(batch, lengths).detach().numpy()
        found = run(session, batch, lengths)
        np.testing.assert_allclose(real(found, batch), real(expected, batch), atol=2e-3)
    one = make_batch([2])
    found, expected = run(opened(fused), one, None), model(one).detach().numpy()
    np.testing.assert_allclose(real(found, one), real(expected, one), atol=2e-3)
