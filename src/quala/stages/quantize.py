"""Quantize: turn the supernet into an integer model, by calibration or by training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch

from quala.compress.quantize.integer import to_integer
from quala.compress.quantize.model import calibrate, quantize, quantizer_parameters
from quala.compress.quantize.store import save_integer
from quala.stages.checkpoint import Opened, metadata, open_checkpoint, set_dropout
from quala.stages.length_adapt import external_teacher, selection_scores
from quala.stages.sandwich import SandwichModule
from quala.stages.training import fit, plan_training, step_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from quala.stages.config import QuantizeStageConfig
    from quala.workflow import StageContext


class QuantizeModule(SandwichModule):
    """The sandwich on a fake-quantized model; learned steps have their own learning rate."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        config = cast("QuantizeStageConfig", self.sandwich)
        steps = quantizer_parameters(self.model)
        own = {id(step) for step in steps}
        groups = super().parameter_groups()
        for group in groups:
            group["params"] = [item for item in group["params"] if id(item) not in own]
        if steps:
            rate = config.quantizer_learning_rate
            groups.append({"params": steps, "lr": rate, "weight_decay": 0.0})
        return groups


def run(
    config: QuantizeStageConfig, context: StageContext, inputs: Mapping[str, Any]
) -> dict[str, float]:
    """Calibrate `model` on train batches, train on if `qat`, and save it with int8 weights.

    The float model itself, as `teacher`, gives the soft labels of the training.
    """
    opened = open_checkpoint(inputs["model"], inputs["data"], seed=config.seed)
    model, data = opened.model, opened.data
    set_dropout(model.hf, hidden=config.hidden_dropout, attention=config.attention_dropout)
    quantize(model.hf, config.quantizers)
    model.eval()
    calibrate(model.hf, lambda: _observe(opened, config))
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
    model.eval()
    model.hf = cast("PreTrainedModel", to_integer(model.hf, inplace=True))
    save_integer(model.hf, context.output, metadata(opened))
    opened.tokenizer.save_pretrained(context.output)
    scores = selection_scores(opened, config)
    return figures | {f"selection/{name}": value for name, value in scores.items()}


def _observe(opened: Opened, config: QuantizeStageConfig) -> None:
    """Show the quantizers `calibration_batches` batches of the train slice."""
    features = opened.data.train.features
    batches = min(config.calibration_batches, math.ceil(len(features) / config.batch_size))
    with torch.no_grad():
        for rows in step_batches(features, config, batches):
            opened.model(features.batch(rows, pad_to=opened.pad_to))
