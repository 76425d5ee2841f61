"""Finetune: train a checkpoint on the task's labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from quala.checkpoint import load_with_data, metadata, score_slice, set_dropout
from quala.data.task import Task
from quala.models.load import save_model
from quala.stages.training import Plan, TrainingModule, fit, plan_training

if TYPE_CHECKING:
    from quala.data.features import Batch
    from quala.models.adaptive import LengthAdaptiveModel
    from quala.stage import StageContext
    from quala.stages.options import FinetuneConfig, TrainingConfig


class FinetuneModule(TrainingModule):
    """Cross-entropy with the labels: the mean of start and end for spans."""

    def __init__(self, model: LengthAdaptiveModel, task: Task, config: TrainingConfig, plan: Plan):
        super().__init__(model, config, plan)
        self.task = task

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.task.loss(self.model(batch), batch)
        self.losses = {"task": loss.detach()}
        return loss


def run(
    config: FinetuneConfig, context: StageContext, inputs: Mapping[str, Any]
) -> dict[str, float]:
    """Train `model` on the train slice of `data`; the output is a Hugging Face folder."""
    opened = load_with_data(inputs["model"], inputs["data"], seed=config.seed)
    model, data = opened.model, opened.data
    set_dropout(model.hf, hidden=config.hidden_dropout, attention=config.attention_dropout)
    plan = plan_training(data.train.features, config, pad_to=opened.pad_to)
    module = FinetuneModule(model, data.task, config, plan)

    def selection() -> float:
        scores = score_slice(opened, data.selection, batch_size=config.batch_size)
        return scores[data.task.metric]

    figures = fit(module, context, score=selection)
    scores = score_slice(opened, data.selection, batch_size=config.batch_size)
    save_model(model, opened.tokenizer, context.output, metadata=metadata(opened))
    return figures | {f"selection/{name}": value for name, value in scores.items()}
