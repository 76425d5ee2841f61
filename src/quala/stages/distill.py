"""Distill: train a student on a teacher's answers, states, attention and relations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quala.compress.distill.attention import attention_loss
from quala.compress.distill.hidden import hidden_loss
from quala.compress.distill.layer_map import hidden_pairs, layer_pairs, uniform_layers
from quala.compress.distill.relations import relation_loss
from quala.compress.layers.maps import layers_to_keep
from quala.compress.layers.reduce import keep_layers
from quala.compress.prune.magnitude import Masks
from quala.compress.prune.sparse import store_sparse
from quala.compress.quantize.latent import in_training_form, save_latent
from quala.data.task import Task, task_loss
from quala.errors import QualaError
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import save_model
from quala.stages.checkpoint import Opened, metadata, open_checkpoint, score_slice, set_dropout
from quala.stages.latent import into_training_form, open_student
from quala.stages.losses import soft_loss
from quala.stages.origin import Origin, copied_from, heads_to_follow, origin_of
from quala.stages.quantized import QuantizedTraining, save_quantized
from quala.stages.shrunk import PrunedWeights, shrink, shrink_figures
from quala.stages.training import Plan, fit, plan_training
from quala.stages.width import narrow

if TYPE_CHECKING:
    from quala.data.batch import Batch
    from quala.models.state import Trace
    from quala.stages.distill_config import DistillConfig
    from quala.workflow import StageContext


class DistillModule(QuantizedTraining):
    """A weighted sum of task, soft-label, hidden-state, attention-score and relation losses.

    `pairs` are student and teacher layers that belong together; relations follow the last pair.
    `heads` are, for each pair, the teacher's heads that the student's scores are held against.
    Weights that `masks` hide stay zero.
    """

    def __init__(
        self,
        model: LengthAdaptiveModel,
        teacher: LengthAdaptiveModel,
        task: Task,
        config: DistillConfig,
        plan: Plan,
        *,
        pairs: list[tuple[int, int]],
        heads: list[list[int]] | None = None,
        masks: Masks | None = None,
    ):
        super().__init__(model, config, plan)
        self.task = task
        self.weights = config
        self.pairs = pairs
        self.heads = heads
        self.pruned = PrunedWeights(masks or {})
        # Outside the module tree: a frozen teacher belongs in no checkpoint.
        self.teacher = [teacher.eval().requires_grad_(False)]
        self.traced = bool(config.hidden or config.attention or config.relation)
        self.projection = self._projection(teacher)

    def _projection(self, teacher: LengthAdaptiveModel) -> torch.nn.Linear | None:
        """Return the learned map of student states to the teacher's width, where they differ."""
        student_width, teacher_width = self.model.arch.hidden, teacher.arch.hidden
        if not self.weights.hidden or student_width == teacher_width:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            return torch.nn.Linear(student_width, teacher_width, bias=False)

    def configure_optimizers(self) -> Any:
        made = super().configure_optimizers()
        self.pruned.keep_zero(self.model.hf, made["optimizer"])
        return made

    def on_fit_start(self) -> None:
        self.teacher[0].to(self.device)

    def on_after_backward(self) -> None:
        self.pruned.hide_gradients(self.model.hf)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        config, teacher = self.weights, self.teacher[0]
        inner, answers = self._terms()
        losses: dict[str, Tensor] = {}
        if inner:
            student_trace = self.model.trace(batch)
            with torch.no_grad():
                teacher_trace = teacher.trace(batch)
            logits, taught = student_trace.logits, teacher_trace.logits
            losses |= self._inner_losses(student_trace, teacher_trace)
        else:
            logits = self.model(batch)
            with torch.no_grad():
                taught = teacher(batch)
        if config.hard and answers:
            losses["hard"] = task_loss(self.task, logits, batch)
        if config.soft and answers:
            losses["soft"] = soft_loss(
                self.task,
                logits,
                taught,
                batch,
                direction="forward",
                temperature=config.temperature,
            )
        self.losses = {name: loss.detach() for name, loss in losses.items()}
        return sum(
            (getattr(config, name) * loss for name, loss in losses.items()),
            start=torch.zeros((), device=logits.device),
        )

    def _terms(self) -> tuple[bool, bool]:
        """Return whether this step follows the teacher's inner states, and whether the answers."""
        share = self.weights.inner_first
        if not share:
            return self.traced, True
        early = self.global_step < round(share * self.plan.total_steps)
        return early, not early

    def _inner_losses(self, student: Trace, teacher: Trace) -> dict[str, Tensor]:
        config, pairs, mask = self.weights, self.pairs, student.mask
        losses: dict[str, Tensor] = {}
        if config.hidden:
            losses["hidden"] = hidden_loss(
                student.hidden,
                teacher.hidden,
                pairs=hidden_pairs(pairs),
                mask=mask,
                projection=self.projection,
            )
        if config.attention:
            losses["attention"] = attention_loss(
                list(zip(student.queries, student.keys, strict=True)),
                list(zip(teacher.queries, teacher.keys, strict=True)),
                pairs=pairs,
                mask=mask,
                heads=self.heads,
            )
        if config.relation:
            own, other = pairs[-1]
            losses["relation"] = relation_loss(
                [side[own] for side in (student.queries, student.keys, student.values)],
                [side[other] for side in (teacher.queries, teacher.keys, teacher.values)],
                relation_heads=config.relation_heads,
                mask=mask,
            )
        return losses


def run(
    config: DistillConfig, context: StageContext, inputs: Mapping[str, Any]
) -> dict[str, float]:
    """Train a student of `teacher` on `data`: `model` where given, else copied layers.

    With `shrink` the student is factorised and pruned first, and saved without its zeros; with
    `quantizers` it is rounded from the first step on and saved as integers. So is one that was,
    and goes on from its latent weights.
    """
    teacher = open_checkpoint(inputs["teacher"], inputs["data"])
    student, origin = _student(config, teacher, inputs)
    masks: Masks = {}
    if config.shrink is not None:
        student, masks = shrink(student, config.shrink, teacher=teacher)
    data = student.data
    pairs = _pairs(config, student, teacher, origin)
    heads = None
    if config.attention:
        heads = heads_to_follow(pairs, student.model, teacher.model, origin)
    set_dropout(student.model.hf, hidden=config.hidden_dropout, attention=config.attention_dropout)
    into_training_form(student, config)
    plan = plan_training(data.train.features, config, pad_to=student.pad_to)
    module = DistillModule(
        student.model,
        teacher.model,
        data.task,
        config,
        plan,
        pairs=pairs,
        heads=heads,
        masks=masks,
    )

    def selection() -> float:
        scores = score_slice(student, data.selection, batch_size=config.batch_size)
        return scores[data.task.metric]

    figures = fit(module, context, score=selection)
    if config.shrink is not None:
        figures |= shrink_figures(student, masks, teacher=teacher)
    _save(config, student, context.output, origin)
    scores = score_slice(student, data.selection, batch_size=config.batch_size)
    return figures | {f"selection/{name}": value for name, value in scores.items()}


def _student(
    config: DistillConfig, teacher: Opened, inputs: Mapping[str, Any]
) -> tuple[Opened, Origin | None]:
    """Return the student, and what it copied of the teacher, None where it is of its own."""
    if "model" in inputs:
        if config.width < 1:
            raise QualaError(
                f"`width` narrows layers copied from the teacher, got {config.width} with a "
                "student of its own."
            )
        student = open_student(inputs["model"], inputs["data"], config)
        return student, origin_of(inputs["model"], inputs["teacher"])
    depth = teacher.model.num_layers
    kept = config.keep
    if kept is None:
        kept = layers_to_keep(config.keep_map, depth=depth, kept=config.layers or depth)
    hf = keep_layers(teacher.model.hf, kept)
    heads = [list(range(teacher.model.arch.sizes[layer].heads)) for layer in kept]
    if config.width < 1:
        hf, heads = narrow(hf, kept, teacher, config)
    model = LengthAdaptiveModel(hf, task_kind=teacher.data.task.kind)
    origin = copied_from(inputs["teacher"], kept, heads)
    return Opened(model, teacher.tokenizer, teacher.data), origin


def _pairs(
    config: DistillConfig, student: Opened, teacher: Opened, origin: Origin | None
) -> list[tuple[int, int]]:
    """Return the student's and the teacher's layers that belong together."""
    own, depth = student.model.num_layers, teacher.model.num_layers
    followed = config.layer_map or (origin.layers if origin else uniform_layers(depth, own))
    return layer_pairs(followed, teacher=depth, student=own)


def _save(config: DistillConfig, student: Opened, folder: Path, origin: Origin | None) -> None:
    """Write the student, as integers where it is rounded, and what it copied of the teacher."""
    facts = origin.to_json() if origin else {}
    if in_training_form(student.model):
        if config.latent:
            save_latent(student.model.hf, folder)
        save_quantized(student, folder, facts)
    else:
        facts = metadata(student) | facts
        save_model(student.model, student.tokenizer, folder, metadata=facts)
    if config.shrink is not None:
        store_sparse(folder)
