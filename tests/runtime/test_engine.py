"""Every runtime says what the exported graph says, and survives foreign files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from quala.errors import QualaError
from quala.lengths import LengthConfig
from quala.runtime import engine as room
from quala.runtime.engine import Facts, GraphEngine, open_engine, read_graph
from quala.runtime.timing import words

FACTS = Facts(layers=2, sequence_length=128)
LENGTHS = [None, LengthConfig((128, 40), 128), LengthConfig((60, 20), 128)]


def opened(folder: Path, runtime: str) -> GraphEngine:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    return open_engine(runtime, read_graph(folder), FACTS, threads=1)


@pytest.mark.parametrize("counts", [[40], [40, 40], [17, 128, 60]])
def test_runtimes_agree(export_folder: Path, counts: list[int]) -> None:
    first, second = opened(export_folder, "onnxruntime"), opened(export_folder, "openvino")
    batch = words(counts)
    real = batch["attention_mask"].astype(bool)
    for lengths in LENGTHS:
        expected, found = first.logits(batch, lengths), second.logits(batch, lengths)
        np.testing.assert_allclose(found[real], expected[real], atol=5e-3)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_padding_changes_nothing(export_folder: Path, runtime: str) -> None:
    engine = opened(export_folder, runtime)
    for lengths in LENGTHS:
        alone = engine.logits(words([40]), lengths)
        padded = engine.logits(words([40], pad_to=64), lengths)
        # other words fill the row, so the same 40 are laid in
        batch = words([40], pad_to=64)
        batch["input_ids"][:, :40] = words([40])["input_ids"]
        padded = engine.logits(batch, lengths)
        np.testing.assert_allclose(padded[:, :40], alone, atol=5e-3)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_survivors_come_with_the_same_logits(export_folder: Path, runtime: str) -> None:
    engine = opened(export_folder, runtime)
    logits, kept = engine.survivors(words([64, 64]), LENGTHS[2])
    np.testing.assert_allclose(logits, engine.logits(words([64, 64]), LENGTHS[2]), atol=1e-5)
    assert {layer: [len(row) for row in rows] for layer, rows in kept.items()} == {
        0: [30, 30],
        1: [10, 10],
    }
    assert all(row == sorted(set(row)) for rows in kept.values() for row in rows)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_threads_may_share_an_engine(export_folder: Path, runtime: str) -> None:
    engine = opened(export_folder, runtime)
    inputs = [words([20 + number], seed=number) for number in range(12)]
    expected = [engine.logits(batch, LENGTHS[2]) for batch in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda batch: engine.logits(batch, LENGTHS[2]), inputs))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_compiled_shapes_are_bounded(export_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_SHAPES", 2)
    engine = opened(export_folder, "onnxruntime")
    for lengths in LENGTHS:
        engine.logits(words([16]), lengths)
        engine.logits(words([16, 12]), lengths)
    assert len(engine._compiled) == 2


def test_an_unknown_runtime_is_named(export_folder: Path) -> None:
    with pytest.raises(QualaError, match="Did you mean `openvino`"):
        opened(export_folder, "openvno")


def test_wrong_lengths_are_refused(export_folder: Path) -> None:
    engine = opened(export_folder, "onnxruntime")
    with pytest.raises(QualaError, match="Expected 2 lengths"):
        engine.logits(words([16]), LengthConfig((64, 32, 16), 128))


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_truncated_graph_is_refused(export_folder: Path, tmp_path: Path, keep: int) -> None:
    whole = (export_folder / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(whole[:keep])
    with pytest.raises(QualaError, match=r"model\.onnx"):
        read_graph(tmp_path)
