"""Distill: train a student on a teacher's answers and inner states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quala.checkpoint import (
    Checkpoint,
    load_with_data,
    record_tuned,
    score_selection,
    set_dropout,
)
from quala.compress.layer_maps import followed_by_embeddings
from quala.compress.losses import DistillLoss, LossInputs, LossSetup
from quala.cost import parameters
from quala.data.teacher_file import is_teacher_file
from quala.errors import QualaError
from quala.models.load import load_tokenizer
from quala.search.bits import read_bits
from quala.stages.quantize import QuantizedTraining
from quala.stages.student import (
    PrunedWeights,
    Student,
    followed_heads,
    followed_layers,
    make_student,
    save_student,
    shrink_figures,
)
from quala.stages.teacher import (
    LiveTeacher,
    Teacher,
    cache_teacher,
    followed_states,
    translated,
)
from quala.stages.teacher_answers import (
    AnswersOf,
    reads_tokens,
    store_answers,
    teacher_places,
)
from quala.stages.training import Plan, fit, plan_training

if TYPE_CHECKING:
    from quala.compress.prune.magnitude import Masks
    from quala.data.features import Batch
    from quala.models.adaptive import LengthAdaptiveModel
    from quala.stage import StageContext
    from quala.stages.distill_options import DistillConfig


class DistillModule(QuantizedTraining):
    """A weighted sum of losses. Weights that `masks` hide stay zero."""

    def __init__(
        self,
        model: LengthAdaptiveModel,
        teacher: Teacher,
        config: DistillConfig,
        plan: Plan,
        *,
        setup: LossSetup,
        masks: Masks | None = None,
    ):
        super().__init__(model, config, plan)
        self.weights = config.weights
        self.terms = config.found_losses()
        self.inner_first = config.inner_first
        self.loss_setup = setup
        self.pruned = PrunedWeights(masks or {})
        self.teacher = teacher
        self.projection = self._projection()

    def _projection(self) -> torch.nn.Linear | None:
        """Return the learned map of student states to the teacher's width, where they differ."""
        student, teacher = self.model.arch.hidden, self.teacher.width
        wanted = any(loss.needs == "hidden" for loss in self.terms.values())
        if not wanted or student == teacher:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            return torch.nn.Linear(student, teacher, bias=False)

    def configure_optimizers(self) -> Any:
        made = super().configure_optimizers()
        self.pruned.keep_zero(self.model.hf, made["optimizer"])
        return made

    def on_fit_start(self) -> None:
        self.teacher.to(self.device)

    def on_after_backward(self) -> None:
        self.pruned.hide_gradients(self.model.hf)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        terms = self._terms_now()
        traced = any(loss.inner for loss in terms.values())
        teacher = self.teacher.outputs(batch, traced=traced)
        trace = self.model.trace(batch) if traced else None
        inputs = LossInputs(
            setup=self.loss_setup,
            batch=batch,
            logits=trace.logits if trace else self.model(batch),
            teacher=teacher,
            trace=trace,
            projection=self.projection,
        )
        losses = {name: loss(inputs) for name, loss in terms.items()}
        self.losses = {name: loss.detach() for name, loss in losses.items()}
        return sum(
            (self.weights[name] * loss for name, loss in losses.items()),
            start=torch.zeros((), device=inputs.logits.device),
        )

    def _terms_now(self) -> dict[str, DistillLoss]:
        """Return the losses of this step: all, or with `inner_first` those of one of its parts."""
        if not self.inner_first:
            return self.terms
        inner = self.global_step < round(self.inner_first * self.plan.total_steps)
        return {name: loss for name, loss in self.terms.items() if loss.inner is inner}


def open_teachers(
    config: DistillConfig, inputs: Mapping[str, Any]
) -> tuple[Checkpoint | None, list[str]]:
    """Return the teacher that is opened, and the places of those whose answers are stored.

    A teacher is opened where it reads the student's tokens, which the student that is made of its
    layers does, and for losses on inner states. Any other one gives answers only. Raises
    QualaError where a loss needs the inner states of a teacher that reads other tokens.
    """
    places, source = teacher_places(config, inputs), inputs["teacher"]
    inner = [name for name, loss in config.found_losses().items() if loss.inner]
    if "model" not in inputs:
        return load_with_data(source, inputs["data"]), places
    if places and not inner and config.shrink is None:
        return None, places  # nothing is asked of the workflow's own, which may have no head
    tokenizer = load_tokenizer(inputs["model"])
    if reads_tokens(source, tokenizer):
        return load_with_data(source, inputs["data"]), places
    if inner:
        if is_teacher_file(source):
            raise QualaError(
                f"The losses on inner states ({', '.join(inner)}) need a model as their teacher, "
                f"got the file `{source}`: set them to 0."
            )
        teacher = load_with_data(source, inputs["data"])
        return translated(teacher, tokenizer, ", ".join(inner)), places or [str(source)]
    if config.shrink is not None:
        raise QualaError(
            "`shrink` counts against the parameters of a teacher that reads the student's tokens, "
            f"which `{source}` does not."
        )
    return None, places or [str(source)]


def _followed(
    config: DistillConfig,
    context: StageContext,
    teacher: Checkpoint,
    student: Student,
    *,
    plan: Plan,
    pairs: Sequence[tuple[int, int]],
) -> Teacher:
    """Return the teacher that reads the student's tokens: in the loop, or its stored outputs."""
    if config.cache is None:
        return LiveTeacher(teacher.model)
    states = followed_states(
        config.cache,
        pairs,
        student=student.model.num_layers,
        teacher=teacher.model.num_layers,
        embeddings=followed_by_embeddings(config.keep_map, pairs),
    )
    inner = any(loss.inner for loss in config.found_losses().values())
    return cache_teacher(
        teacher,
        context,
        cache=config.cache,
        training=config,
        plan=plan,
        pairs=states if inner else [],
    )


def run(
    config: DistillConfig, context: StageContext, inputs: Mapping[str, Any]
) -> dict[str, float]:
    """Train a student of `teacher` on `data`: `model` where given, else the teacher's layers.

    Its weights have the `bits` that a stage found, where given.
    """
    if "bits" in inputs and config.quantizers is not None:
        found = dict(read_bits(inputs["bits"]).bits)
        config = replace(config, quantizers=replace(config.quantizers, overrides=found))
    losses = config.found_losses()
    teacher, places = open_teachers(config, inputs)
    student = make_student(config, teacher, inputs)
    model, data = student.model, student.checkpoint.data
    inner = any(loss.inner for loss in losses.values())
    pairs = followed_layers(config, student, teacher) if teacher else []
    by_head = any(loss.needs == "heads" for loss in losses.values())
    setup = LossSetup(
        task=data.task,
        pairs=pairs,
        heads=followed_heads(pairs, student, teacher) if teacher and by_head else None,
        temperature=config.temperature,
        relation_heads=config.relation_heads,
        hidden_loss=config.hidden_loss,
        embeddings=followed_by_embeddings(config.keep_map, pairs),
    )
    set_dropout(model.hf, hidden=config.hidden_dropout, attention=config.attention_dropout)
    plan = plan_training(data.train.features, config, pad_to=student.checkpoint.pad_to)
    original = parameters((teacher.model if teacher else model).arch)
    targets: Teacher | None = None
    if teacher and (inner or not places):
        targets = _followed(config, context, teacher, student, plan=plan, pairs=pairs)
    if places:
        opened, spec = student.checkpoint, inputs["data"]
        answers = store_answers(places, config, context, student=opened, spec=spec, plan=plan)
        targets = AnswersOf(answers, targets)
    if targets is None:
        raise QualaError("A distillation needs a teacher, got none.")
    del teacher  # a cached one needs no memory while the student is trained
    module = DistillModule(model, targets, config, plan, setup=setup, masks=student.masks)

    def score() -> dict[str, float]:
        return score_selection(student.checkpoint, batch_size=config.batch_size)

    figures = {**targets.figures, **fit(module, context, score=lambda: score()[data.task.metric])}
    if config.shrink is not None:
        figures |= shrink_figures(student, original=original)
    save_student(config, student, context.output)
    scores = score()
    record_tuned(student.checkpoint, context.output)
    data.save_summary(context.output)
    return figures | {f"selection/{name}": value for name, value in scores.items()}
