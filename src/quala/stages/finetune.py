"""Finetune: train a checkpoint on the task's labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from quala.checkpoint import load_with_data, metadata, record_tuned, score_selection, set_dropout
from quala.compress.prune.sparse import store_sparse
from quala.compress.structure import forget_structures
from quala.models.load import save_model
from quala.models.stated import Stated, record_stated, stated_of
from quala.stages.training import TrainingModule, fit, plan_training

if TYPE_CHECKING:
    from quala.data.features import Batch
    from quala.stage import StageContext
    from quala.stages.options import FinetuneConfig


class FinetuneModule(TrainingModule):
    """The loss of the task, with the labels."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.model.task.loss(self.model(batch), batch)
        self.losses = {"task": loss.detach()}
        return loss


def run(
    config: FinetuneConfig, context: StageContext, inputs: Mapping[str, Any]
) -> dict[str, float]:
    """Train `model` on the train slice of `data`; the output is a Hugging Face folder."""
    checkpoint = load_with_data(
        inputs["model"],
        inputs["data"],
        head="new" if config.new_head else "or_new",
        seed=config.seed,
    )
    model, data = checkpoint.model, checkpoint.data
    forget_structures(model.hf)
    start = stated_of(model.hf.config).base_model  # what is trained has a license of its own
    record_stated(model.hf.config, Stated(base_model=start))
    set_dropout(model.hf, hidden=config.hidden_dropout, attention=config.attention_dropout)
    plan = plan_training(data.train.features, config, pad_to=checkpoint.pad_to)
    module = FinetuneModule(model, config, plan)

    def score() -> dict[str, float]:
        return score_selection(checkpoint, batch_size=config.batch_size)

    figures = fit(module, context, score=lambda: score()[data.task.metric])
    save_model(model, checkpoint.tokenizer, context.output, metadata=metadata(checkpoint))
    if config.keep_zeros:
        store_sparse(context.output)
    scores = score()
    record_tuned(checkpoint, context.output)
    data.save_summary(context.output)
    return figures | {f"selection/{name}": value for name, value in scores.items()}
