"""Quantize: turn the supernet into an integer model, by calibration or by training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from quala.stages.checkpoint import open_checkpoint, set_dropout
from quala.stages.length_adapt import external_teacher, selection_scores
from quala.stages.quantized import QuantizedTraining, fake_quantize, save_quantized
from quala.stages.sandwich import SandwichModule
from quala.stages.training import fit, plan_training

if TYPE_CHECKING:
    from quala.stages.training_config import QuantizeStageConfig
    from quala.workflow import StageContext


class QuantizeModule(QuantizedTraining, SandwichModule):
    """The sandwich on a fake-quantized model."""


def run(
    config: QuantizeStageConfig, context: StageContext, inputs: Mapping[str, Any]
) -> dict[str, float]:
    """Calibrate `model` on train batches, train on if `qat`, and save it with integer weights.

    The float model itself, as `teacher`, gives the soft labels of the training.
    """
    opened = open_checkpoint(inputs["model"], inputs["data"], seed=config.seed)
    model, data = opened.model, opened.data
    set_dropout(model.hf, hidden=config.hidden_dropout, attention=config.attention_dropout)
    fake_quantize(opened, config.quantizers, config)
    figures: dict[str, float] = {}
    if config.method == "qat":
        module = QuantizeModule(
            model,
            data.task,
            config,
            plan_training(data.train.features, config, pad_to=opened.pad_to),
            sequence_length=data.spec.max_length,
            teacher=external_teacher(config, inputs),
        )
        figures = fit(module, context, score=lambda: selection_scores(opened, config)["mean"])
    save_quantized(opened, context.output)
    scores = selection_scores(opened, config)
    return figures | {f"selection/{name}": value for name, value in scores.items()}
