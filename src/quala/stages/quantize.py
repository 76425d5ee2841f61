"""Quantize: calibration, training on fake-quantized layers, the integer folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from quala.checkpoint import Checkpoint, load_with_data, metadata, record_tuned, set_dropout
from quala.compress.prune.sparse import store_sparse
from quala.compress.prune.views import run_layers
from quala.compress.quantize.files import save_integer
from quala.compress.quantize.integer import to_integer
from quala.compress.quantize.modules import QuantLinear
from quala.compress.quantize.sites import check_drops
from quala.compress.quantize.transform import calibrate, learned_steps, quantize, set_curvature
from quala.compress.structure import head_size, linear_names
from quala.errors import QualaError
from quala.models.load import name_outputs
from quala.stages.length_adapt import SandwichModule, external_teacher, selection_scores
from quala.stages.training import (
    TrainingModule,
    all_finite,
    fit,
    plan_training,
    train_batches,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from quala.compress.quantize.config import QuantizeConfig
    from quala.models.adaptive import LengthAdaptiveModel
    from quala.stage import StageContext
    from quala.stages.options import QuantizedConfig, QuantizeStageConfig


class QuantizedTraining(TrainingModule):
    """A training with own rates for learned steps, in which loss-aware weights get the curvature.

    A model without quantized layers is trained as by `TrainingModule`.
    """

    def parameter_groups(self) -> list[dict[str, Any]]:
        config = cast("QuantizedConfig", self.settings)
        by_rate: dict[float, list[nn.Parameter]] = {}
        for found in learned_steps(self.model):
            rate = config.step_rate(top=found.top, activation=found.activation)
            by_rate.setdefault(rate, []).append(found.step)
        own = {id(step) for steps in by_rate.values() for step in steps}
        groups = super().parameter_groups()
        for group in groups:
            group["params"] = [item for item in group["params"] if id(item) not in own]
        learned = [
            {"params": steps, "lr": rate, "weight_decay": 0.0} for rate, steps in by_rate.items()
        ]
        return [*groups, *learned]

    def configure_optimizers(self) -> Any:
        made = super().configure_optimizers()
        # After each step, so that a checkpoint of that step holds its curvature.
        made["optimizer"].register_step_post_hook(
            lambda optimizer, *_: set_curvature(self.model, optimizer)
        )
        return made


def fake_quantize(opened: Checkpoint, quantizers: QuantizeConfig, config: QuantizedConfig) -> None:
    """Replace the layers of a float model by fake-quantized ones, calibrated on train batches."""
    if not all_finite(opened.model.parameters()):
        raise QualaError("The model cannot be rounded: some of its weights are not finite.")
    check_groups(opened.model, quantizers)
    quantize(opened.model.hf, quantizers)
    if opened.model.structures:
        round_all_inputs(opened.model.hf)
    opened.model.eval()

    def observe() -> None:
        for batch in train_batches(opened, config, config.calibration_batches):
            for layers in opened.model.structures or [()]:
                if not all_finite([run_layers(opened.model, batch, layers)]):
                    raise QualaError("The model cannot be rounded: its outputs are not finite.")

    calibrate(opened.model.hf, observe)


def check_groups(model: LengthAdaptiveModel, quantizers: QuantizeConfig) -> None:
    """Raise QualaError for groups of columns that a narrower sub-network divides."""
    if quantizers.weight_granularity != "group":
        return
    for units in {one for layers in model.structures for one in layers if one}:
        for columns in (units.heads * head_size(model.hf), units.neurons):
            if columns % quantizers.weight_group:
                raise QualaError(
                    "`quantizers.weight_group` must divide the columns of all sub-networks, "
                    f"{columns} of some, got {quantizers.weight_group}."
                )


def round_all_inputs(hf: PreTrainedModel) -> None:
    """Let no input that a narrower sub-network lacks stay float as an outlier."""
    for names in linear_names(hf):
        for part in ("attention_out", "ffn_out"):
            for layer in hf.get_submodule(names[part]).modules():
                if isinstance(layer, QuantLinear):
                    quantizer = layer.input_quantizer
                    quantizer.config = replace(quantizer.config, outliers=0)


def save_quantized(
    opened: Checkpoint, folder: Path, facts: Mapping[str, Any] | None = None
) -> None:
    """Convert a fake-quantized model to integers, in place, and write it with its tokenizer.

    `facts` are added to quala.json.
    """
    model = opened.model.eval()
    model.hf = cast("PreTrainedModel", to_integer(model.hf, inplace=True))
    name_outputs(model.hf.config, model.task)
    save_integer(model.hf, folder, {**metadata(opened), **(facts or {})})
    opened.tokenizer.save_pretrained(folder)


class QuantizeModule(QuantizedTraining, SandwichModule):
    """The sandwich rule on a fake-quantized model."""


def run(
    config: QuantizeStageConfig, context: StageContext, inputs: Mapping[str, Any]
) -> dict[str, float]:
    """Calibrate `model` on train batches, train it if `qat`, and save it with integer weights.

    `teacher`, usually the float model itself, gives the soft labels of the training.
    """
    opened = load_with_data(inputs["model"], inputs["data"], seed=config.seed)
    model, data = opened.model, opened.data
    set_dropout(model.hf, hidden=config.hidden_dropout, attention=config.attention_dropout)
    fake_quantize(opened, config.quantizers, config)
    check_drops(model.hf)
    figures: dict[str, float] = {}
    if config.method == "qat":
        plan = plan_training(data.train.features, config, pad_to=opened.pad_to)
        module = QuantizeModule(
            model,
            config,
            plan,
            sequence_length=data.spec.max_length,
            teacher=external_teacher(config, context, inputs, opened, plan),
            structures=model.structures or [()],
        )
        figures = fit(module, context, score=lambda: selection_scores(opened, config)["mean"])
    save_quantized(opened, context.output)
    if config.keep_zeros:
        store_sparse(context.output)
    scores = selection_scores(opened, config)
    record_tuned(opened, context.output)
    data.save_summary(context.output)
    return figures | {f"selection/{name}": value for name, value in scores.items()}
