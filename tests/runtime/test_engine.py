"""All runtimes return the same logits, and damaged graphs are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from toys import Build, MakeBatch, build, build_hf, make_batch

from quala.architecture import ELASTIC
from quala.checkpoint import cut_out
from quala.data.task import Span
from quala.errors import QualaError
from quala.graph.encoder import build_graph
from quala.lengths import LengthConfig, read_layers
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import load_model
from quala.onnx_builder import BEYOND
from quala.runtime import engine as room
from quala.runtime.card import Card
from quala.runtime.engine import (
    GraphEngine,
    TorchEngine,
    open_engine,
    open_export,
    open_model,
    read_graph,
)
from quala.runtime.timing import synthetic_inputs

__all__ = ["build", "build_hf", "make_batch"]

FULL = LengthConfig((128, 128), 128)
Arrays = dict[str, np.ndarray]

LENGTHS = [None, LengthConfig((128, 40), 128), LengthConfig((60, 20), 128)]


def opened(folder: Path, runtime: str) -> GraphEngine:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    return open_engine(runtime, read_graph(folder), FULL, threads=1)


@pytest.mark.parametrize("counts", [[40], [40, 40], [17, 128, 60]])
def test_runtimes_agree(export_folder: Path, counts: list[int]) -> None:
    first, second = opened(export_folder, "onnxruntime"), opened(export_folder, "openvino")
    batch = synthetic_inputs(counts)
    real = batch["attention_mask"].astype(bool)
    for lengths in LENGTHS:
        expected, found = first.logits(batch, lengths), second.logits(batch, lengths)
        np.testing.assert_allclose(found[real], expected[real], atol=5e-3)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_padding_changes_nothing(export_folder: Path, runtime: str) -> None:
    engine = opened(export_folder, runtime)
    for lengths in LENGTHS:
        alone = engine.logits(synthetic_inputs([40]), lengths)
        batch = {
            name: np.pad(values, ((0, 0), (0, 24)))
            for name, values in synthetic_inputs([40]).items()
        }
        padded = engine.logits(batch, lengths)
        np.testing.assert_allclose(padded[:, :40], alone, atol=5e-3)


@pytest.mark.parametrize("older", [False, True], ids=["graph", "graph of an older version"])
@pytest.mark.parametrize(
    ("kind", "significance"), [("classification", "cls"), ("question-answering", "span")]
)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_ragged_batch_keeps_what_pytorch_keeps(
    runtime: str, kind: str, significance: str, older: bool, build: Build, make_batch: MakeBatch
) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    model, batch = build(kind=kind, significance=significance).float(), make_batch([7, 20, 32])
    graph = build_graph(model, sequence_length=32)
    if older:
        for tensor in graph.graph.initializer:
            if not tensor.dims and onnx.numpy_helper.to_array(tensor) == BEYOND:
                tensor.CopyFrom(onnx.helper.make_tensor(tensor.name, 7, [], [2**62 - 1]))
    full, lengths = LengthConfig((32,) * 3, 32), LengthConfig((24, 12, 6), 32)
    engine = open_engine(runtime, graph, full, threads=1)
    arrays = {name: values.numpy() for name, values in batch.items()}
    found, kept = engine.survivors(arrays, lengths)
    assert {layer: [len(row) for row in rows] for layer, rows in kept.items()} == {
        0: [6, 15, 24], 1: [3, 8, 12], 2: [2, 4, 6],
    }  # fmt: skip
    expected = model(batch, lengths).detach().numpy()
    real = arrays["attention_mask"].astype(bool) if expected.ndim == 3 else ...
    np.testing.assert_allclose(found[real], expected[real], atol=1e-4)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
def test_sub_networks_run_on_the_graph_of_all(
    runtime: str, build: Build, make_batch: MakeBatch
) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    model, batch = build(significance="span").float(), make_batch([7, 20, 32])
    setattr(model.hf.config, ELASTIC, ["", "2x16"])
    engine = open_model(runtime, model, sequence_length=32, threads=1)
    arrays = {name: values.numpy() for name, values in batch.items()}
    real = arrays["attention_mask"].astype(bool)
    for layers in ("2x16,-,1x20", "3x32,2x8,4x4"):
        lengths = LengthConfig((24, 24, 6), 32, read_layers(layers, layers=3))
        expected = cut_out(model, lengths.layers)(batch, lengths.extracted).detach().numpy()
        for _ in range(2):
            found, kept = engine.survivors(arrays, lengths)
            np.testing.assert_allclose(found[real], expected[real], atol=1e-4)
        counts = {layer: [len(row) for row in rows] for layer, rows in kept.items()}
        assert counts in ({}, {0: [6, 15, 24], 2: [2, 4, 6]})
        assert bool(counts) == (runtime != "torch")
    whole = engine.logits(arrays, LengthConfig((24, 24, 6), 32))
    assert not np.allclose(whole[real], found[real], atol=1e-2)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_survivors_come_with_the_same_logits(export_folder: Path, runtime: str) -> None:
    engine = opened(export_folder, runtime)
    logits, kept = engine.survivors(synthetic_inputs([64, 64]), LENGTHS[2])
    np.testing.assert_allclose(
        logits, engine.logits(synthetic_inputs([64, 64]), LENGTHS[2]), atol=1e-5
    )
    assert {layer: [len(row) for row in rows] for layer, rows in kept.items()} == {
        0: [30, 30],
        1: [10, 10],
    }
    assert all(row == sorted(set(row)) for rows in kept.values() for row in rows)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_threads_may_share_an_engine(export_folder: Path, runtime: str) -> None:
    engine = opened(export_folder, runtime)
    inputs = [synthetic_inputs([20 + number], seed=number) for number in range(12)]
    expected = [engine.logits(batch, LENGTHS[2]) for batch in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda batch: engine.logits(batch, LENGTHS[2]), inputs))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_compiled_shapes_are_bounded(export_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_SHAPES", 2)
    engine = opened(export_folder, "onnxruntime")
    for lengths in LENGTHS:
        engine.logits(synthetic_inputs([16]), lengths)
        engine.logits(synthetic_inputs([16, 12]), lengths)
    assert len(engine._compiled) == 2


def test_an_unknown_runtime_is_named(export_folder: Path) -> None:
    with pytest.raises(QualaError, match="Did you mean `openvino`"):
        opened(export_folder, "openvno")


def test_wrong_lengths_are_refused(export_folder: Path) -> None:
    engine = opened(export_folder, "onnxruntime")
    with pytest.raises(QualaError, match="Expected 2 lengths"):
        engine.logits(synthetic_inputs([16]), LengthConfig((64, 32, 16), 128))
    with pytest.raises(QualaError, match="only the exports of elastic models"):
        engine.logits(synthetic_inputs([16]), FULL.of(read_layers("1x8", layers=2)))


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_truncated_graph_is_refused(export_folder: Path, tmp_path: Path, keep: int) -> None:
    whole = (export_folder / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(whole[:keep])
    with pytest.raises(QualaError, match=r"model\.onnx"):
        read_graph(tmp_path)


@pytest.fixture
def model(tiny_checkpoint: Path) -> LengthAdaptiveModel:
    return load_model(tiny_checkpoint, task=Span())


@pytest.fixture
def inputs(model: LengthAdaptiveModel) -> Arrays:
    found = synthetic_inputs([10, 10])
    found["input_ids"] %= model.arch.vocabulary
    return found


def expected(
    model: LengthAdaptiveModel, inputs: Arrays, lengths: LengthConfig | None
) -> np.ndarray:
    batch = {name: torch.from_numpy(values) for name, values in inputs.items()}
    return model(batch, lengths).detach().numpy()


@pytest.mark.parametrize("lengths", [None, LengthConfig((6, 4), 10)])
def test_torch_answers_as_the_model_does(
    model: LengthAdaptiveModel, inputs: Arrays, lengths: LengthConfig | None
) -> None:
    found = TorchEngine(model).logits(inputs, lengths)
    np.testing.assert_allclose(found, expected(model, inputs, lengths), rtol=1e-5, atol=1e-6)


def test_torch_neither_drops_out_nor_records(model: LengthAdaptiveModel, inputs: Arrays) -> None:
    seen: list[bool] = []
    model.register_forward_hook(lambda *call: seen.append(call[2].is_inference()))
    engine = TorchEngine(model.train())
    first, second = engine.logits(inputs, None), engine.logits(inputs, None)
    assert np.array_equal(first, second)
    assert seen == [True, True]


def test_padding_that_torch_adds_is_cut_off(model: LengthAdaptiveModel, inputs: Arrays) -> None:
    padded = TorchEngine(model, pad_to=24).logits(inputs, None)
    np.testing.assert_allclose(padded, expected(model, inputs, None), atol=1e-5)


def test_torch_runs_on_the_threads_asked_for(model: LengthAdaptiveModel, inputs: Arrays) -> None:
    seen: list[int] = []
    model.register_forward_hook(lambda *call: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    TorchEngine(model, threads=before + 1).logits(inputs, None)
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_threads_come_back_after_a_failure(model: LengthAdaptiveModel, inputs: Arrays) -> None:
    def fail(*call: object) -> None:
        raise KeyboardInterrupt

    model.register_forward_hook(fail)
    before = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        TorchEngine(model, threads=before + 1).logits(inputs, None)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_a_model_is_opened_in_any_runtime(
    model: LengthAdaptiveModel, inputs: Arrays, runtime: str
) -> None:
    engine = open_model(runtime, model, sequence_length=32, threads=1)
    assert engine.name == runtime
    found = engine.logits(inputs, LengthConfig((16, 8), 32))
    wanted = expected(model.eval(), inputs, LengthConfig((16, 8), 32))
    np.testing.assert_allclose(found, wanted, atol=5e-3)


def _external(graph: onnx.ModelProto) -> None:
    tensor = max(graph.graph.initializer, key=lambda one: len(one.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def _external_in_a_branch(graph: onnx.ModelProto) -> None:
    branch = next(one for one in graph.graph.node if one.op_type == "If").attribute[0].g
    tensor = branch.initializer.add(name="inner", data_type=1, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def _all_ones(graph: onnx.ModelProto) -> None:
    tensor = max(graph.graph.initializer, key=lambda one: one.data_type == 1 and len(one.raw_data))
    tensor.raw_data = b"\xff" * len(tensor.raw_data)


HOSTILE: dict[str, Callable[[onnx.ModelProto], object]] = {
    "is not in the file": _external,
    "`inner` is not in the file": _external_in_a_branch,
    "it has the operators onnx 21, evil 1": lambda graph: graph.opset_import.append(
        onnx.helper.make_opsetid("evil", 1)
    ),
    "it maps other, attention_mask": lambda graph: setattr(graph.graph.input[0], "name", "other"),
    "cannot load the graph": lambda graph: setattr(graph.graph.node[3], "op_type", "Nonsense"),
    "it gives values that are no logits": _all_ones,
    "The graph is none that quala wrote": lambda graph: [
        one.ClearField("attribute") for one in graph.graph.node if one.op_type == "If"
    ],
}


@pytest.mark.parametrize("said", HOSTILE)
def test_a_graph_of_others_is_one_sentence(
    export_folder: Path, tmp_path: Path, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = read_graph(export_folder)
    HOSTILE[said](graph)
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(QualaError, match=re.escape(said)):
        open_export(tmp_path, Card.read(export_folder), runtime="onnxruntime", threads=1)
    assert capfd.readouterr().err == ""


def test_a_graph_is_no_larger_than_its_card_says(export_folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(2**30)  # a hole, which takes no disk
    with pytest.raises(QualaError, match=r"has 1,073,741,824 bytes, more than the"):
        open_export(tmp_path, Card.read(export_folder), runtime="onnxruntime", threads=1)
