"""The processor is named once, and one that saturates int8 products is warned of."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from quala.lengths import LengthConfig
from quala.runtime import engine, hardware
from quala.runtime.engine import open_engine
from quala.runtime.hardware import INTEGER, Conditions, Watch, cpu, processor, saturates

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


@pytest.mark.parametrize(
    ("seconds", "work", "own", "others"),
    [(10.0, 25.0, 9.0, 1.6), (10.0, 9.0, 9.0, 0.0), (10.0, 8.0, 9.0, 0.0), (0.1, 2.0, 0.1, None)],
)
def test_the_work_of_others_is_all_work_less_ones_own(
    monkeypatch: pytest.MonkeyPatch, seconds: float, work: float, own: float, others: float | None
) -> None:
    readings = iter([(100.0, 50.0, 5.0), (100.0 + seconds, 50.0 + work, 5.0 + own)])
    monkeypatch.setattr(hardware, "_readings", lambda: next(readings))
    found = Watch().conditions(0.03)
    assert found.others == (None if others is None else pytest.approx(others))
    assert found.spread == 0.03


def test_readings_never_fall() -> None:
    before, after = hardware._readings(), hardware._readings()
    assert all(first <= second for first, second in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("conditions", "note"),
    [
        (Conditions(0.2, 2, 0.05), ""),
        (Conditions(None, 2, 0.05), ""),
        (Conditions(1.6, 2, 0.18),
         "Measured while the machine was busy: others took 1.6 of 2 cores, repeated timings "
         "differ by 18 %."),
        (Conditions(None, 2, 0.18),
         "Measured while the machine was busy: repeated timings differ by 18 %."),
    ],
)  # fmt: skip
def test_a_busy_machine_is_told(conditions: Conditions, note: str) -> None:
    assert conditions.note == note
    assert conditions.busy == bool(note)
