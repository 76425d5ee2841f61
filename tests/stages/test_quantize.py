"""From the supernet to an integer folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quala.checkpoint import load_with_data, predict, score_slice
from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.transform import calibrate, learned_steps, quantize
from quala.data.spec import DataSpec
from quala.data.taskdata import TaskData
from quala.errors import QualaError
from quala.lengths import LengthConfig
from quala.models.load import weights_file
from quala.stages import finetune
from quala.stages import quantize as quantized
from quala.stages import quantize as stage
from quala.stages.training import plan_training
from quala.workflow import StageContext


@pytest.mark.parametrize(
    ("method", "ranges"),
    [("ptq", "minmax"), ("ptq", "percentile"), ("qat", "ema"), ("qat", "lsq")],
)
def test_the_output_opens_as_int8(
    supernet: Path, configure: Any, spec: DataSpec, tmp_path: Path, method: str, ranges: str
) -> None:
    config = configure(
        "quantize", method=method, max_steps=2, quantizers=QuantizeConfig(activation_range=ranges)
    )
    inputs = {"data": spec, "model": supernet, "teacher": supernet}
    figures = stage.run(config, StageContext.alone("quantize", tmp_path), inputs)
    opened = load_with_data(tmp_path / "output", spec)
    assert opened.precision == "int8"
    assert ("train/steps" in figures) == (method == "qat")
    score = score_slice(opened, opened.data.selection, batch_size=8)["f1"]
    assert score == pytest.approx(figures["selection/full"])


def test_two_bit_weights_train_and_open_again(
    supernet: Path, configure: Any, spec: DataSpec, tmp_path: Path
) -> None:
    widths: dict[str, Any] = {"weight_quantizer": "lsq", "weight_bits": 2}
    widths |= {"embedding_quantizer": "twn", "embedding_bits": 2, "activation_range": "lsq"}
    config = configure("quantize", method="qat", max_steps=2, quantizers=QuantizeConfig(**widths))
    inputs = {"data": spec, "model": supernet, "teacher": supernet}
    figures = stage.run(config, StageContext.alone("quantize", tmp_path), inputs)
    opened = load_with_data(tmp_path / "output", spec)
    score = score_slice(opened, opened.data.selection, batch_size=8)["f1"]
    assert score == pytest.approx(figures["selection/full"])
    saved = weights_file(tmp_path / "output").stat().st_size
    assert saved < (supernet / "model.safetensors").stat().st_size / 5  # int8 is above a quarter


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_a_model_without_finite_outputs_is_refused(
    value: float, supernet: Path, configure: Any, spec: DataSpec, tmp_path: Path
) -> None:
    opened = load_with_data(supernet, spec)
    opened.model.hf.bert.encoder.layer[0].output.dense.weight.data[:] = value
    config = configure("quantize", method="ptq")
    with pytest.raises(QualaError, match=r"cannot be rounded: (some|its outputs)"):
        stage.fake_quantize(opened, config.quantizers, config)


def test_calibration_reads_train_and_nothing_else(
    supernet: Path,
    configure: Any,
    spec: DataSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    calibrated: list[str] = []
    slices = TaskData._slice

    def watched(self: TaskData, name: str) -> Any:
        asked.append(name)
        return slices(self, name)

    def watching(*words: Any) -> None:
        calibrate(*words)
        calibrated.extend(asked)

    monkeypatch.setattr(TaskData, "_slice", watched)
    monkeypatch.setattr(quantized, "calibrate", watching)
    inputs = {"data": spec, "model": supernet, "teacher": supernet}
    context = StageContext.alone("quantize", tmp_path)
    stage.run(configure("quantize", method="ptq"), context, inputs)
    assert calibrated == ["train"]
    assert set(asked) == {"train", "selection"}


def test_learned_steps_have_their_own_rate(supernet: Path, configure: Any, spec: DataSpec) -> None:
    config = configure("quantize", quantizers=QuantizeConfig(activation_range="lsq"))
    opened = load_with_data(supernet, spec)
    quantize(opened.model.hf, config.quantizers)
    plan = plan_training(opened.data.train.features, config, pad_to=None)
    module = stage.QuantizeModule(opened.model, config, plan, sequence_length=128)
    *others, steps = module.parameter_groups()
    assert steps["lr"] == config.quantizer_learning_rate
    assert {id(one) for one in steps["params"]} == {
        id(found.step) for found in learned_steps(opened.model)
    }
    every = [id(one) for group in (*others, steps) for one in group["params"]]
    assert sorted(every) == sorted(id(one) for one in opened.model.parameters())
    assert all("lr" not in group for group in others)


def test_training_needs_something_to_learn(configure: Any) -> None:
    nothing = {"hard": 0.0, "teacher": 0.0}
    configure("quantize", method="ptq", **nothing)
    with pytest.raises(QualaError, match="learn nothing"):
        configure("quantize", method="qat", **nothing)


def test_int8_answers_as_float_does(
    tiny_checkpoint: Path, configure: Any, sentences: DataSpec, tmp_path: Path
) -> None:
    taught = StageContext.alone("finetune", tmp_path / "finetune")
    learn = configure("finetune", epochs=6, learning_rate=5e-3, hidden_dropout=0.0)
    finetune.run(learn, taught, {"data": sentences, "model": tiny_checkpoint})
    inputs = {"data": sentences, "model": taught.output, "teacher": taught.output}
    context = StageContext.alone("quantize", tmp_path / "quantize")
    stage.run(configure("quantize", method="ptq"), context, inputs)
    floating, integer = (
        load_with_data(folder, sentences) for folder in (taught.output, context.output)
    )
    for lengths in (None, LengthConfig((24, 16), 32)):
        before, after = (
            score_slice(one, one.data.search, batch_size=8, lengths=lengths)["accuracy"]
            for one in (floating, integer)
        )
        assert abs(before - after) <= 7
    features = floating.data.search.features
    logits = [
        np.stack(predict(one.model, features, batch_size=8, pad_to=None))
        for one in (floating, integer)
    ]
    assert score_slice(floating, floating.data.search, batch_size=8)["accuracy"] > 90
    assert np.corrcoef(logits[0].ravel(), logits[1].ravel())[0, 1] > 0.98
