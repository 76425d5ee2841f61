"""The processor is named once, and one that saturates int8 products is warned of."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from quala.lengths import LengthConfig
from quala.runtime import engine
from quala.runtime.engine import open_engine
from quala.runtime.hardware import INTEGER, cpu, processor, saturates

FULL = LengthConfig((8,), 8)


def graph(kind: str) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones(4, dtype=kind), "weight")
    return helper.make_model(helper.make_graph([], "g", [], [], [weight]))


def test_instructions_are_among_those_the_system_names() -> None:
    found = processor()
    assert found["name"] == cpu()[0]
    assert found["instructions"] in {*INTEGER, "none"}
    assert found["instructions"] == "none" or found["instructions"] in cpu()[1]


@pytest.mark.parametrize(
    ("instructions", "kind", "warned"),
    [
        ("avx2", "int8", True),
        ("avx512f", "int8", True),
        ("avx512_vnni", "int8", False),
        ("none", "int8", False),  # not x86: no such instructions, no such sums
        ("avx2", "float32", False),
    ],
)
def test_saturating_processors_are_warned_of(
    instructions: str,
    kind: str,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert saturates(instructions) == (instructions in ("avx2", "avx512f"))
    found = {"name": "A CPU", "instructions": instructions}
    monkeypatch.setattr(engine, "processor", lambda: found)
    with caplog.at_level(logging.WARNING):
        open_engine("onnxruntime", graph(kind), FULL, threads=1)
    assert ("may saturate" in caplog.text) == warned
