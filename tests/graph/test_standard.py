"""Graphs for other tools give what the model gives, in batches and in every runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from numpy.typing import NDArray
from torch import Tensor

from quala.checkpoint import cut_out
from quala.graph.encoder import build_graph
from quala.graph.standard import PADDED, standard_graph
from quala.lengths import LengthConfig, read_layers
from quala.models.adaptive import LengthAdaptiveModel

Build = Callable[..., LengthAdaptiveModel]
MakeBatch = Callable[..., dict[str, Tensor]]
Outputs = dict[str, NDArray[Any]]
SEPARATOR, TOKENS = 3, (7, 20, 32, 5)
FULL = LengthConfig.full(layers=3, sequence_length=32)
LENGTHS = [FULL, LengthConfig((24, 12, 6), 32), LengthConfig((32, 16, 16), 32)]
NAMED = {"question-answering": "start_logits", "embedding": "sentence_embedding"}
CASES = [
    ("bert", "question-answering", "span"),
    ("roberta", "question-answering", "question"),
    ("distilbert", "classification", "question"),
    ("modernbert", "token-classification", "cls"),
    ("deberta-v2", "classification", "column_sum"),
    ("mpnet", "embedding", "column_sum"),
]


def standard(model: LengthAdaptiveModel, lengths: LengthConfig) -> onnx.ModelProto:
    typed = model.arch.type_vocabulary > 1
    graph = build_graph(model, sequence_length=32)
    named = NAMED.get(model.task.kind, "logits")
    return standard_graph(graph, lengths, named=named, separator=None if typed else SEPARATOR)


def by_onnxruntime(graph: onnx.ModelProto, feeds: Outputs) -> Outputs:
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def by_openvino(graph: onnx.ModelProto, feeds: Outputs) -> Outputs:
    core, exact = openvino.Core(), {"INFERENCE_PRECISION_HINT": "f32"}
    found = core.compile_model(core.read_model(graph.SerializeToString()), "CPU", exact)(feeds)
    return {one.name: np.array(found[one.name]) for one in graph.graph.output}


def feeds_of(graph: onnx.ModelProto, batch: dict[str, Tensor]) -> Outputs:
    """Return the inputs that a graph has."""
    arrays = {name: values.numpy() for name, values in batch.items()}
    arrays["token_type_ids"] = arrays.pop("segment_ids")
    return {one.name: arrays[one.name] for one in graph.graph.input}


def logits_of(found: Outputs) -> NDArray[Any]:
    if "start_logits" in found:
        return np.stack([found["start_logits"], found["end_logits"]], axis=-1)
    return found["logits"] if "logits" in found else found["sentence_embedding"]


@pytest.mark.parametrize(
    ("family", "kind", "significance", "lengths", "run"),
    [(*case, lengths, by_onnxruntime) for case in CASES for lengths in LENGTHS]
    + [(*case, lengths, by_openvino) for case in CASES[:2] for lengths in LENGTHS[:2]],
)
def test_a_padded_batch_gives_what_each_row_gives_alone(
    family: str,
    kind: str,
    significance: str,
    lengths: LengthConfig,
    run: Any,
    build: Build,
    make_batch: MakeBatch,
) -> None:
    model = build(family, kind, significance=significance).float()
    batch = make_batch(TOKENS, pad_to=34, family=family)
    batch["input_ids"][:, 3] = SEPARATOR  # which ends the first text
    graph = standard(model, lengths)
    assert {one.name for one in graph.graph.input} <= {*feeds_of(graph, batch)}
    found = logits_of(run(graph, feeds_of(graph, batch)))
    for row, count in enumerate(TOKENS):
        alone = {name: values[row : row + 1, :count] for name, values in batch.items()}
        expected = model(alone, lengths).detach().numpy()[0]
        given = found[row, :count] if found.ndim == 3 else found[row]
        np.testing.assert_allclose(given, expected, atol=2e-4)
        if kind == "question-answering":
            assert (found[row, count:] == np.float32(PADDED)).all()


@pytest.mark.parametrize(
    ("family", "significance", "lengths", "typed"),
    [
        ("bert", "question", LENGTHS[1], True),
        ("roberta", "question", LENGTHS[1], False),
        ("distilbert", "cls", FULL, False),
    ],
)
def test_inputs_are_those_of_the_tokenizer(
    family: str, significance: str, lengths: LengthConfig, typed: bool, build: Build
) -> None:
    graph = standard(build(family, significance=significance).float(), lengths)
    names = [one.name for one in graph.graph.input]
    assert names == ["input_ids", "attention_mask", *(["token_type_ids"] if typed else [])]
    dims = [one.dim_param for one in graph.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch_size", "sequence_length"]
    assert [one.domain for one in graph.opset_import] == [""]


def test_equal_scores_are_ranked_by_their_places(build: Build, make_batch: MakeBatch) -> None:
    model = build("bert", significance="column_sum").float()
    batch = make_batch([32, 32])
    batch["input_ids"][:, 4:] = 9
    places = model.hf.get_submodule("bert.embeddings.position_embeddings")
    next(places.parameters()).data.zero_()  # equal tokens tie
    lengths = LengthConfig((20, 10, 6), 32)
    graph = standard(model, lengths)
    # OpenVINO keeps the order of equal scores in short rows only, which those of toys are.
    rankings = [node for node in graph.graph.node if node.op_type == "TopK"]
    assert all(onnx.helper.get_node_attr_value(node, "largest") == 0 for node in rankings)
    found = logits_of(by_onnxruntime(graph, feeds_of(graph, batch)))
    np.testing.assert_allclose(found, model(batch, lengths).detach().numpy(), atol=2e-4)


def test_an_embedding_has_hidden_states_at_full_length(
    build: Build, make_batch: MakeBatch
) -> None:
    model, batch = build("bert", "embedding").float(), make_batch(TOKENS)
    graph = standard(model, FULL)
    found = by_onnxruntime(graph, feeds_of(graph, batch))
    mask = batch["attention_mask"].numpy()[..., None]
    mean = (found["last_hidden_state"] * mask).sum(1) / mask.sum(1)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(found["sentence_embedding"], mean, atol=1e-5)
    shorter = standard(model, LENGTHS[1])
    assert [one.name for one in shorter.graph.output] == ["sentence_embedding"]


def test_a_sub_network_is_a_point_too(build: Build, make_batch: MakeBatch) -> None:
    model, batch = build().float(), make_batch(TOKENS)
    model.hf.config.quala_elastic = ["", "2x16,-,2x16"]
    layers = read_layers("2x16,-,2x16", layers=3)
    graph = standard(model, LengthConfig((24, 24, 6), 32, layers))
    found = logits_of(by_onnxruntime(graph, feeds_of(graph, batch)))
    part = cut_out(model, layers)
    expected = part(batch, LengthConfig((24, 6), 32)).detach().numpy()
    real = batch["attention_mask"].bool().numpy()
    np.testing.assert_allclose(found[real], expected[real], atol=2e-4)


def test_openvino_refuses_the_graph_of_all_lengths(build: Build) -> None:
    graph = build_graph(build().float(), sequence_length=32)
    with pytest.raises(Exception, match="OptionalHasElement"):
        openvino.Core().read_model(graph.SerializeToString())
