"""LengthAdapt: turn a checkpoint into a supernet that works at any length configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from quala.lengths import constant_drop
from quala.models.load import save_model
from quala.stages.checkpoint import Opened, metadata, open_checkpoint, score_slice, set_dropout
from quala.stages.sandwich import SandwichModule
from quala.stages.training import fit, plan_training

if TYPE_CHECKING:
    from quala.data.spec import DataSpec
    from quala.stages.training_config import LengthAdaptConfig, SandwichConfig
    from quala.workflow import StageContext


def run(
    config: LengthAdaptConfig, context: StageContext, inputs: Mapping[str, Any]
) -> dict[str, float]:
    """Train `model` on `data` under sampled lengths; `teacher` gives soft labels where wanted."""
    opened = open_checkpoint(
        inputs["model"],
        inputs["data"],
        significance=config.significance or own_significance(inputs["data"]),
        semantics=config.semantics,
        seed=config.seed,
    )
    model, data = opened.model, opened.data
    set_dropout(model.hf, hidden=config.hidden_dropout, attention=config.attention_dropout)
    plan = plan_training(data.train.features, config, pad_to=opened.pad_to)
    module = SandwichModule(
        model,
        data.task,
        config,
        plan,
        sequence_length=data.spec.max_length,
        teacher=external_teacher(config, inputs),
    )
    figures = fit(module, context, score=lambda: selection_scores(opened, config)["mean"])
    save_model(model, opened.tokenizer, context.output, metadata=metadata(opened))
    scores = selection_scores(opened, config)
    return figures | {f"selection/{name}": value for name, value in scores.items()}


def own_significance(spec: DataSpec) -> str:
    """Return how a task ranks tokens where nobody says: by its span head, or by [CLS]."""
    return "span" if spec.task == "squad" else "cls"


def external_teacher(config: SandwichConfig, inputs: Mapping[str, Any]) -> Any:
    """Return the teacher model where the configuration gives it a weight, else None."""
    if not (config.teacher or config.teacher_for_subs):
        return None
    return open_checkpoint(inputs["teacher"], inputs["data"]).model


def selection_scores(opened: Opened, config: SandwichConfig) -> dict[str, float]:
    """Score the selection slice at full length and at the smallest trained lengths."""
    metric = opened.data.task.metric
    smallest = constant_drop(
        config.bound,
        layers=opened.model.num_layers,
        sequence_length=opened.data.spec.max_length,
    )
    scores = {
        name: score_slice(
            opened, opened.data.selection, batch_size=config.batch_size, lengths=lengths
        )[metric]
        for name, lengths in (("full", None), ("smallest", smallest))
    }
    return scores | {"mean": (scores["full"] + scores["smallest"]) / 2}
