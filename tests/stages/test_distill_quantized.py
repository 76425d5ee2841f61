"""Distillation into rounded weights: what is learned, at which rate, and what is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from quala.checkpoint import load_with_data, score_slice
from quala.compress.losses import LossSetup
from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.modules import ActivationQuantizer, QuantEmbedding, QuantLinear
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.stages import distill, length_adapt
from quala.stages.quantize import fake_quantize
from quala.stages.teacher import LiveTeacher
from quala.stages.training import plan_training
from quala.workflow import StageContext

STILL = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
LSQ = QuantizeConfig(
    weight_quantizer="lsq", weight_bits=4, weight_granularity="tensor",
    embedding_quantizer="lsq", embedding_bits=2, embedding_granularity="tensor",
    activation_range="lsq",
)  # fmt: skip
LAT = QuantizeConfig(
    weight_quantizer="lat", weight_bits=2, embedding_quantizer="lat", embedding_bits=2
)


@pytest.fixture
def run(
    configure: Any, spec: DataSpec, tiny_checkpoint: Path, tmp_path: Path
) -> Callable[..., Any]:
    """Return the stage as a function: options in, its folder and figures out."""

    def done(name: str = "d", **changes: Any) -> tuple[Path, dict[str, float]]:
        config = configure("distill", **{"max_steps": 2, **STILL, **changes})
        context = StageContext.alone("distill", tmp_path / name)
        figures = distill.run(config, context, {"data": spec, "teacher": tiny_checkpoint})
        return context.output, figures

    return done


@pytest.fixture
def module(configure: Any, spec: DataSpec, tiny_checkpoint: Path) -> Callable[..., Any]:
    """Return a way to a training of the teacher into itself, before its first step."""

    def made(quantizers: QuantizeConfig, **changes: Any) -> distill.DistillModule:
        config = configure("distill", quantizers=quantizers, **{**STILL, **changes})
        student, teacher = (load_with_data(tiny_checkpoint, spec) for _ in range(2))
        fake_quantize(student, quantizers, config)
        plan = plan_training(student.data.train.features, config, pad_to=None)
        return distill.DistillModule(
            student.model, LiveTeacher(teacher.model), config, plan,
            setup=LossSetup(student.data.task, [(0, 0), (1, 1)]),
        )  # fmt: skip

    return made


def test_the_student_is_saved_as_integers(run: Any, spec: DataSpec) -> None:
    folder, figures = run(quantizers=LSQ, hidden=1.0, attention=1.0)
    opened = load_with_data(folder, spec)
    assert opened.precision == "w4e2a8"
    assert opened.model.num_layers == 1
    score = score_slice(opened, opened.data.selection, batch_size=8)["f1"]
    assert score == pytest.approx(figures["selection/f1"])
    assert figures["train/steps"] == 2


def test_the_student_is_rounded_from_the_first_step_on(
    module: Any, spec: DataSpec, tiny_checkpoint: Path
) -> None:
    made = module(LAT, hard=0.0)
    features = load_with_data(tiny_checkpoint, spec).data.train.features
    made.training_step(features.batch([0, 1]), 0)
    # The same layers in float have nothing to learn.
    assert min(made.losses[name] for name in ("soft", "relation")) > 1e-6


def test_clips_have_rates_of_their_own(module: Any) -> None:
    made = module(LSQ, clip_learning_rate=0.5, activation_clip_learning_rate=0.25)
    wanted: dict[int, float] = {}
    for layer in made.model.modules():
        if isinstance(layer, QuantLinear):
            wanted[id(layer.weight_quantizer.step)] = 0.5 / 7
        elif isinstance(layer, QuantEmbedding):
            wanted[id(layer.weight_quantizer.step)] = 0.5 / 1
        elif isinstance(layer, ActivationQuantizer):
            zero = int(layer.zero_point)
            wanted[id(layer.step)] = 0.25 / max(zero, 255 - zero)
    groups = made.parameter_groups()
    found = {id(one): group["lr"] for group in groups if "lr" in group for one in group["params"]}
    assert found == pytest.approx(wanted)
    assert all(group["weight_decay"] == 0 for group in groups if "lr" in group)
    every = [id(one) for group in groups for one in group["params"]]
    assert sorted(every) == sorted(id(one) for one in made.parameters())


def test_frozen_embeddings_keep_their_clips(module: Any) -> None:
    made = module(LSQ, freeze_word_embeddings=True)
    words = made.model.hf.get_input_embeddings()
    trained = {id(one) for group in made.parameter_groups() for one in group["params"]}
    assert not trained & {id(words.weight), id(words.weight_quantizer.step)}


@pytest.mark.parametrize("kind", ["clip", "activation_clip"])
def test_clips_move_at_their_rate(run: Any, kind: str) -> None:
    rates = {"learning_rate": 0.0, "clip_learning_rate": 0.0, "activation_clip_learning_rate": 0.0}
    still, moved = (
        load_file(run(str(rate), quantizers=LSQ, **{**rates, f"{kind}_learning_rate": rate})[0]
                  / "quala.safetensors")
        for rate in (0.0, 0.5)
    )  # fmt: skip
    changed = {
        name.rpartition(".")[2] for name in still if not torch.equal(still[name], moved[name])
    }
    if kind == "clip":
        assert {"weight_scale", "scale"} <= changed
        assert "input_scale" not in changed
    else:
        assert changed == {"input_scale"}


def test_a_step_leaves_its_curvature_to_the_weights(
    module: Any, spec: DataSpec, tiny_checkpoint: Path
) -> None:
    made = module(LAT)
    optimizer = made.configure_optimizers()["optimizer"]
    features = load_with_data(tiny_checkpoint, spec).data.train.features
    made.training_step(features.batch([0, 1]), 0).backward()
    layer = made.model.hf.bert.encoder.layer[0].output.dense
    assert torch.equal(layer.weight_quantizer.curvature, torch.ones_like(layer.weight))
    optimizer.step()
    moment = optimizer.state[layer.weight]["exp_avg_sq"]
    assert torch.equal(layer.weight_quantizer.curvature, moment.sqrt() + 1e-8)


def test_without_quantizers_the_student_stays_float(run: Any, spec: DataSpec) -> None:
    folder, _ = run(quantizers=None)
    assert load_with_data(folder, spec).precision == "fp32"


def test_an_integer_student_cannot_be_trained_further(
    run: Any, configure: Any, spec: DataSpec, tmp_path: Path
) -> None:
    folder, _ = run(quantizers=LAT)
    context = StageContext.alone("length_adapt", tmp_path / "next")
    with pytest.raises(QualaError, match=r"Only float models .* got w2e2a8 weights"):
        length_adapt.run(configure("length_adapt"), context, {"data": spec, "model": folder})


def test_the_best_rounded_weights_are_kept(run: Any) -> None:
    _, figures = run(quantizers=LSQ, selection_every=1, max_steps=3, learning_rate=1e-2)
    assert figures["selection/best"] == pytest.approx(figures["selection/f1"], abs=1e-6)


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("calibration_batches", 0, "`calibration_batches` must be above 0 and .*, got 0"),
        ("clip_learning_rate", -1.0, "`clip_learning_rate` must be at least 0 and .*, got -1.0"),
        ("activation_clip_learning_rate", -1.0, "`activation_clip_learning_rate` must be"),
    ],
)
def test_values_below_their_least_are_refused(
    configure: Any, option: str, value: float, sentence: str
) -> None:
    with pytest.raises(QualaError, match=sentence):
        configure("distill", **{option: value})
