"""The latency model finds what each term costs, and adds it up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from quala.lengths import LengthConfig
from quala.runtime import latency_model as room
from quala.runtime.answerer import load
from quala.runtime.latency_model import TERMS, LatencyModel, measure_latency_model, terms

FULL = LengthConfig.full(layers=6, sequence_length=384)
TRUE = (0.4, 0.002, 0.006, 0.00001, 0.012, 0.1, 0.0008, 0.0005)


def test_terms_count_what_an_input_takes() -> None:
    lengths = LengthConfig((384, 192, 192, 96, 96, 48), 384)
    found = dict(zip(TERMS, terms(lengths, 100).tolist(), strict=True))
    assert found == {
        "call": 1, "token": 100, "attended_token": 100 + 100 + 50 + 50 + 25 + 25,
        "attended_pair": 2 * 100**2 + 2 * 50**2 + 2 * 25**2,
        "fed_token": 100 + 50 + 50 + 25 + 25 + 13,
        "drop": 3, "ranked_token": 100 + 50 + 25, "gathered_token": 50 + 25 + 13,
    }  # fmt: skip


def test_full_length_pays_for_no_drop() -> None:
    full = LengthConfig.full(layers=6, sequence_length=384)
    assert terms(full, 200)[5:].tolist() == [0, 0, 0]


def test_the_fit_recovers_the_terms() -> None:
    cases = room._cases(FULL, seed=0)
    rows = np.array([terms(lengths, tokens) for lengths, tokens in cases])
    noise = np.random.default_rng(0).normal(1.0, 0.01, len(rows))
    found = room._fit(rows, rows @ np.array(TRUE) * noise)
    np.testing.assert_allclose(rows @ found, rows @ np.array(TRUE), rtol=0.03)


def test_the_mean_is_over_the_inputs() -> None:
    model = LatencyModel(TRUE, error=0.0, measurements=1, timing={})
    lengths = LengthConfig((384, 192, 192, 96, 96, 48), 384)
    expected = np.mean([model.milliseconds(lengths, count) for count in (50, 90, 90, 200)])
    assert model.mean(lengths, [90, 50, 200, 90]) == pytest.approx(float(expected))


def test_a_model_survives_json() -> None:
    model = LatencyModel(TRUE, error=0.05, measurements=9, timing={"runtime": "onnxruntime"})
    assert LatencyModel.from_json(model.to_json()) == model


def test_an_engine_is_measured(export_folder: Path) -> None:
    engine = load(export_folder).engine
    full = LengthConfig((128, 128), 128)
    model = measure_latency_model(engine, full, seed=0, repeats=1, timing={"threads": 1})
    assert model.measurements > 60
    assert all(value >= 0 for value in model.coefficients)
    assert model.milliseconds(LengthConfig((128, 128), 128), 128) > 0
    assert set(model.timing) == {"threads", "conditions"}


def test_cases_are_timed_at_two_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second round is a quarter slower, so the median lies between."""
    rounds = iter([[[4.0, 4.0]], [[5.0, 5.0]]])
    monkeypatch.setattr(room, "interleaved", lambda calls, warmup: next(rounds))
    engine: Any = SimpleNamespace(logits=len)
    (found,), conditions = room.time_cases(engine, [(FULL, 100)], repeats=2)
    assert found == 4.5
    assert conditions.spread == pytest.approx(0.25)
    assert conditions.busy
