"""Distill: train a student on a teacher's answers, states, attention and relations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quala.checkpoint import TaskCheckpoint, load_with_data, score_slice, set_dropout
from quala.compress.layer_maps import hidden_pairs
from quala.compress.losses import attention_loss, hidden_loss, relation_loss, task_soft_loss
from quala.compress.partial_states import kept_loss
from quala.compress.prune.magnitude import Masks
from quala.cost import parameters
from quala.data.task import Task
from quala.models.adaptive import LengthAdaptiveModel
from quala.stages.quantize import QuantizedTraining
from quala.stages.student import (
    PrunedWeights,
    followed_layers,
    heads_to_follow,
    into_training_form,
    save_student,
    shrink,
    shrink_figures,
    student_of,
)
from quala.stages.teacher import LiveTeacher, Said, Teacher, cache_teacher, taught_states
from quala.stages.training import Plan, fit, plan_training

if TYPE_CHECKING:
    from quala.data.features import Batch
    from quala.models.selection import Trace
    from quala.stage import StageContext
    from quala.stages.distill_options import DistillConfig


class DistillModule(QuantizedTraining):
    """A weighted sum of task, soft-label, hidden-state, attention-score and relation losses.

    `pairs` are student and teacher layers that belong together; relations follow the last pair.
    `heads` are, for each pair, the teacher's heads that the student's scores are held against.
    Weights that `masks` hide stay zero.
    """

    def __init__(
        self,
        model: LengthAdaptiveModel,
        teacher: Teacher,
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
        self.teacher = teacher
        self.traced = bool(config.hidden or config.attention or config.relation)
        self.projection = self._projection(teacher)

    def _projection(self, teacher: Teacher) -> torch.nn.Linear | None:
        """Return the learned map of student states to the teacher's width, where they differ."""
        student_width, teacher_width = self.model.arch.hidden, teacher.width
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
        self.teacher.to(self.device)

    def on_after_backward(self) -> None:
        self.pruned.hide_gradients(self.model.hf)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        config = self.weights
        inner, answers = self._terms()
        losses: dict[str, Tensor] = {}
        said = self.teacher.say(batch, traced=inner)
        if inner:
            student_trace = self.model.trace(batch)
            logits = student_trace.logits
            losses |= self._inner_losses(student_trace, said)
        else:
            logits = self.model(batch)
        if config.hard and answers:
            losses["hard"] = self.task.loss(logits, batch)
        if config.soft and answers:
            losses["soft"] = task_soft_loss(
                self.task,
                logits,
                said.logits,
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

    def _inner_losses(self, student: Trace, said: Said) -> dict[str, Tensor]:
        config, pairs, mask = self.weights, self.pairs, student.mask
        teacher = said.trace
        if teacher is None:  # a cache, which has hidden states only
            return {"hidden": kept_loss(student.hidden, said.kept, projection=self.projection)}
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

    With `shrink` the student is factorized and pruned first, and saved without its zeros; with
    `quantizers` it is rounded from the first step on and saved as integers, and so is one that
    was, and goes on from its latent weights; with `cache` the teacher speaks once, before the
    training, and is then let go.
    """
    teacher = load_with_data(inputs["teacher"], inputs["data"])
    student, origin = student_of(config, teacher, inputs)
    masks: Masks = {}
    if config.shrink is not None:
        student, masks = shrink(student, config.shrink, teacher=teacher)
    data = student.data
    pairs = followed_layers(config, student, teacher, origin)
    heads = None
    if config.attention:
        heads = heads_to_follow(pairs, student.model, teacher.model, origin)
    set_dropout(student.model.hf, hidden=config.hidden_dropout, attention=config.attention_dropout)
    into_training_form(student, config)
    plan = plan_training(data.train.features, config, pad_to=student.pad_to)
    taught = _teacher(config, context, teacher, plan=plan, pairs=pairs, student=student)
    original = parameters(teacher.model.arch)
    del teacher
    module = DistillModule(
        student.model,
        taught,
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

    figures = {**taught.figures, **fit(module, context, score=selection)}
    if config.shrink is not None:
        figures |= shrink_figures(student, masks, original=original)
    save_student(config, student, context.output, origin)
    scores = score_slice(student, data.selection, batch_size=config.batch_size)
    return figures | {f"selection/{name}": value for name, value in scores.items()}


def _teacher(
    config: DistillConfig,
    context: StageContext,
    teacher: TaskCheckpoint,
    *,
    plan: Plan,
    pairs: list[tuple[int, int]],
    student: TaskCheckpoint,
) -> Teacher:
    """Return the teacher as it teaches: in the loop, or from a cache."""
    if config.cache is None:
        return LiveTeacher(teacher.model)
    states = taught_states(
        config.cache, pairs, student=student.model.num_layers, teacher=teacher.model.num_layers
    )
    return cache_teacher(
        teacher,
        context,
        cache=config.cache,
        training=config,
        plan=plan,
        pairs=states if config.hidden else [],
    )
