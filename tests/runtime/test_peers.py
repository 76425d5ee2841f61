"""Other tools make the same model: their answers are those of PyTorch, or near them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quala.errors import QualaError
from quala.runtime import peers
from quala.runtime.peers import PEERS, Peer, Source, float_model, peer_engines
from quala.runtime.timing import synthetic_inputs


@pytest.fixture(scope="module")
def engines(
    tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, peers.PeerEngine]:
    model = float_model(tiny_checkpoint, answers=True)
    samples = [small([count]) for count in (8, 16, 24)]
    made, left_out = peer_engines(
        Source(model, tmp_path_factory.mktemp("peers"), samples, threads=1)
    )
    assert {**made, **left_out}.keys() == PEERS.keys()
    assert all("is not installed" in reason for reason in left_out.values()), left_out
    return made


def small(counts: list[int]) -> dict[str, np.ndarray]:
    inputs = synthetic_inputs(counts)
    return {**inputs, "input_ids": inputs["input_ids"] % 20}


@pytest.mark.parametrize("counts", [[12], [9, 20]])
def test_float_peers_answer_as_pytorch_does(
    engines: dict[str, peers.PeerEngine], counts: list[int]
) -> None:
    inputs = small(counts)
    real = inputs["attention_mask"].astype(bool)
    wanted = engines["PyTorch fp32"].logits(inputs, None)
    assert wanted.shape == (len(counts), max(counts), 2)
    assert wanted.std() > 0.01
    assert {"ONNX Runtime fp32", "ONNX Runtime int8, dynamic", "OpenVINO fp32"} <= engines.keys()
    for name, engine in engines.items():
        near = 1e-5 if "fp32" in name else 0.3 * float(wanted[real].std())
        np.testing.assert_allclose(engine.logits(inputs, None)[real], wanted[real], atol=near)


def test_what_cannot_be_made_is_left_out(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(source: Source) -> peers.Run:
        raise RuntimeError("no such kernel\nat line 1")

    tools = {"a": Peer(broken), "b": Peer(broken, "no_such_package"), **dict([*PEERS.items()][:1])}
    monkeypatch.setattr(peers, "PEERS", tools)
    model = float_model(tiny_checkpoint, answers=True)
    made, left_out = peer_engines(Source(model, tmp_path, [], threads=1))
    assert list(made) == ["PyTorch fp32"]
    assert left_out == {
        "a": "RuntimeError: no such kernel",
        "b": "no_such_package is not installed: pip install 'quala[peers]'",
    }


def test_a_checkpoint_without_the_head_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(QualaError, match="has no head for this task"):
        float_model(tiny_checkpoint, answers=False)
