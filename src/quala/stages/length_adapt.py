"""LengthAdapt: training under sampled lengths, by the sandwich rule (arXiv 2010.07003)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from quala.architecture import ELASTIC
from quala.checkpoint import (
    Checkpoint,
    load_any_model,
    load_data,
    load_with_data,
    metadata,
    record_tuned,
    score_selection,
    set_dropout,
    untrained_ranking,
)
from quala.compress.losses import hidden_loss, soft_loss
from quala.compress.prune.sparse import store_sparse
from quala.compress.prune.structured import sort_width, taylor_importance, units_of
from quala.compress.prune.views import StatesOf, prefix_views, run_layers
from quala.compress.structure import check_sizes, forget_structures
from quala.errors import QualaError
from quala.lengths import (
    Layers,
    LengthConfig,
    constant_drop,
    elastic_layers,
    layers_name,
    left_out,
    sample_few_drops,
    sample_layer_drop,
    sample_length_drop,
)
from quala.models.load import save_model
from quala.stages.teacher import LiveTeacher, Teacher, check_teacher
from quala.stages.teacher_answers import (
    AnswersOf,
    reads_tokens,
    store_answers,
    teacher_places,
)
from quala.stages.training import Plan, TrainingModule, fit, plan_training, train_batches

if TYPE_CHECKING:
    from pytorch_lightning.core.optimizer import LightningOptimizer
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import PreTrainedModel

    from quala.data.features import Batch
    from quala.models.adaptive import LengthAdaptiveModel
    from quala.stage import StageContext
    from quala.stages.options import LengthAdaptConfig, SandwichConfig


NO_LAYERS: frozenset[int] = frozenset()


class SandwichModule(TrainingModule):
    """One full pass, the smallest pass and `num_sandwich` sampled passes in each step.

    The full pass is trained on the task, and on an external teacher's soft labels if one is
    given. The other passes follow the detached full pass by KL divergence. All passes have the
    same weight. Each is followed by its backward pass, so memory holds one of them (arXiv
    2010.07003, section 3.2).
    """

    automatic_optimization = False

    def __init__(
        self,
        model: LengthAdaptiveModel,
        config: SandwichConfig,
        plan: Plan,
        *,
        sequence_length: int,
        teacher: Teacher | None = None,
        structures: Sequence[Layers] = ((),),
    ):
        super().__init__(model, config, plan)
        self.structures = list(structures)
        self.sandwich = config
        self.sequence_length = sequence_length
        self.teacher = teacher

    @property
    def passes(self) -> int:
        """The full pass, the smallest one and the sampled ones; or one of each structure.

        The full one alone where nothing is ever dropped.
        """
        if self._all:
            return len(self.structures)
        config = self.sandwich
        drops = config.bound or config.layer_drop or len(self.structures) > 1
        return 2 + config.num_sandwich if drops or config.num_sandwich else 1

    @property
    def _all(self) -> bool:
        return getattr(self.sandwich, "all_structures", False)

    def on_fit_start(self) -> None:
        if self.teacher is not None:
            self.teacher.to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        rng = Random(f"{self.settings.seed}:{self.global_step}")
        passes = self.passes
        optimizer = cast("LightningOptimizer", self.optimizers())
        optimizer.zero_grad()
        target = self._full_pass(batch, rng, 1 / passes)
        sub_loss = torch.zeros((), device=self.device)
        for number in range(1, passes):
            layers = self._structure(rng, number)
            skipped = self._skipped(rng) | left_out(layers)
            lengths = self._lengths(rng, skipped, smallest=number == 1).of(layers)
            sub_loss += self._sub_pass(batch, target, lengths, skipped, 1 / passes)
        if passes > 1:
            self.losses["sub"] = sub_loss / (passes - 1)
        self.configure_gradient_clipping(optimizer.optimizer, self.settings.gradient_clip)
        optimizer.step()
        cast("LambdaLR", self.lr_schedulers()).step()

    def _full_pass(self, batch: Batch, rng: Random, weight: float) -> Tensor:
        """Run the full pass and its backward; return the logits that the other passes follow."""
        config = self.sandwich
        skipped = self._skipped(rng) if config.full_layer_drop else NO_LAYERS
        if self.follows_states:
            logits, self.states = StatesOf(self.model).of(batch, ())
            exits: list[Tensor] = []
        elif config.exits and self.model.significance.needs_span_head:
            logits, exits = self.model.forward_exits(batch, skip_layers=skipped)
        else:
            logits, exits = self.model(batch, skip_layers=skipped), []
        loss = torch.zeros((), device=logits.device)
        if config.hard:
            self.losses["task"] = self.model.task.loss(logits, batch)
            loss = loss + config.hard * self.losses["task"]
        target = logits.detach()
        if exits:
            # The mean KL(full pass || span head at a layer) over layers.
            losses = [soft_loss(self.model.task, early, target, batch) for early in exits]
            self.losses["exits"] = torch.stack(losses).mean()
            loss = loss + config.exits * self.losses["exits"]
        if self.teacher is not None:
            given = self.teacher.outputs(batch, traced=self.follows_states)
            taught = given.logits
            if given.trace is not None and config.teacher_for_subs:
                self.states = list(given.trace.hidden)
            self.losses["teacher"] = soft_loss(
                self.model.task,
                logits,
                taught,
                batch,
                temperature=config.temperature,
            )
            loss = loss + config.teacher * self.losses["teacher"]
            if config.teacher_for_subs:
                target = taught
        self.manual_backward(weight * loss)
        self.losses = {name: value.detach() for name, value in self.losses.items()}
        return target

    def _sub_pass(
        self,
        batch: Batch,
        target: Tensor,
        lengths: LengthConfig,
        skipped: frozenset[int],
        weight: float,
    ) -> Tensor:
        config, states = self.sandwich, None
        if self.follows_states and lengths.layers and not any(lengths.drops):
            logits, states = StatesOf(self.model).of(batch, lengths.layers)
        else:
            logits = run_layers(self.model, batch, lengths.layers, lengths, skipped=skipped)
        loss = soft_loss(
            self.model.task,
            logits,
            target,
            batch,
            direction=config.direction,
            temperature=config.temperature,
        )
        followed = loss.detach()
        if states is not None:
            pairs = state_pairs(lengths.layers, self.model.num_layers)
            goal, mask = [one.detach() for one in self.states], batch["attention_mask"]
            loss = loss + self._hidden * hidden_loss(states, goal, pairs=pairs, mask=mask)
        if config.sub_hard:
            loss = loss + config.sub_hard * self.model.task.loss(logits, batch)
        self.manual_backward(weight * loss)
        return followed

    @property
    def _hidden(self) -> float:
        return float(getattr(self.sandwich, "hidden", 0.0))

    @property
    def follows_states(self) -> bool:
        """Whether narrower and shallower passes follow hidden states."""
        return bool(self._hidden)

    def _structure(self, rng: Random, number: int) -> Layers:
        """Return the layers of a pass: the smallest ones first, then drawn ones, or each once."""
        if self._all:
            return self.structures[number]
        if number == 1 or len(self.structures) == 1:
            return self.structures[-1]
        return rng.choice(self.structures)

    def _skipped(self, rng: Random) -> frozenset[int]:
        return sample_layer_drop(self.sandwich.layer_drop, layers=self.model.num_layers, rng=rng)

    def _bound(self) -> float:
        """Return the drop bound of this step: it grows linearly over the first half."""
        start, end = self.sandwich.bound_start, self.sandwich.bound
        if start is None:
            return end
        grown = min(1.0, 2 * self.global_step / self.plan.total_steps)
        return start + (end - start) * grown

    def _lengths(self, rng: Random, skipped: frozenset[int], *, smallest: bool) -> LengthConfig:
        sizes = {"layers": self.model.num_layers, "sequence_length": self.sequence_length}
        if smallest:
            return constant_drop(self._bound(), **sizes, skipped=skipped)
        sample = {"length_drop": sample_length_drop, "few_drops": sample_few_drops}
        return sample[self.sandwich.sampler](self._bound(), **sizes, rng=rng, skipped=skipped)


def run(
    config: LengthAdaptConfig, context: StageContext, inputs: Mapping[str, Any]
) -> dict[str, float]:
    """Train `model` on `data` under sampled lengths; `teacher` gives soft labels where wanted."""
    tokenizer, data = load_data(inputs["model"], inputs["data"])
    own = untrained_ranking(data.task) if config.elastic else data.task.significance
    model = load_any_model(
        inputs["model"],
        task=data.task,
        significance=config.significance or own,
        semantics=config.semantics,
        seed=config.seed,
    )
    opened = Checkpoint(model, tokenizer, data)
    plan = plan_training(data.train.features, config, pad_to=opened.pad_to)
    structures: Sequence[Layers] = [()]
    if config.elastic:
        structures = make_elastic(opened, config)
    else:
        forget_structures(model.hf)
    teacher = external_teacher(config, context, inputs, opened, plan)
    if config.hidden and config.teacher_for_subs:
        check_states(teacher, model)
    set_dropout(model.hf, hidden=config.hidden_dropout, attention=config.attention_dropout)
    module = SandwichModule(
        model,
        config,
        plan,
        sequence_length=data.spec.max_length,
        teacher=teacher,
        structures=structures,
    )
    figures = fit(module, context, score=lambda: selection_scores(opened, config)["mean"])
    save_model(model, tokenizer, context.output, metadata=metadata(opened))
    if config.keep_zeros:
        store_sparse(context.output)
    scores = selection_scores(opened, config)
    record_tuned(opened, context.output)
    data.save_summary(context.output)
    return figures | {f"selection/{name}": value for name, value in scores.items()}


def elastic_order(
    hf: PreTrainedModel, widths: Sequence[float], depths: Sequence[float]
) -> list[Layers]:
    """Return the sub-networks of a model, the largest first, the least wide and deep last.

    Raises QualaError for a model that they cannot be cut out of.
    """
    falling = (sorted(values, reverse=True) for values in (widths, depths))
    order = elastic_layers(units_of(hf), *falling)
    check_sizes(hf)
    prefix_views(hf, order[-1])  # refuses what cannot be cut
    return order


def make_elastic(opened: Checkpoint, config: LengthAdaptConfig) -> list[Layers]:
    """Sort heads and neurons by importance, record the sub-networks in the model, return them.

    The largest is the first, the least wide and deep the last. A model that was trained for
    several widths stays in its order.

    Raises:
        QualaError: for a model of masked, factorized or quantized layers, or of a family whose
            heads must stay.
    """
    model = opened.model
    order, whole = elastic_order(model.hf, config.widths, config.depths), units_of(model.hf)
    known = (zip(layers, whole, strict=True) for layers in model.structures if layers)
    in_order = any(units not in (None, had) for layers in known for units, had in layers)
    if len(config.widths) > 1 and not in_order:
        model.eval()
        scores = taylor_importance(
            model.hf,
            train_batches(opened, config, config.importance_batches),
            lambda batch: model.task.loss(model(batch), batch),
        )
        model.hf = sort_width(model.hf, scores)
    names = [layers_name(layers) if layers else "" for layers in order]
    setattr(model.hf.config, ELASTIC, names)
    return order


def check_states(teacher: Teacher | None, student: LengthAdaptiveModel) -> None:
    """Raise QualaError unless a teacher has a hidden state for each of the student's."""
    if not isinstance(teacher, LiveTeacher):
        raise QualaError(
            "`hidden` with `teacher_for_subs` needs a teacher that reads the student's tokens: "
            "its hidden states are not stored."
        )
    own = student.num_layers, student.arch.hidden
    other = teacher.model.num_layers, teacher.model.arch.hidden
    if own != other:
        raise QualaError(
            f"`hidden` with `teacher_for_subs` needs a teacher of {own[0]} layers of width "
            f"{own[1]}, as the student, got {other[0]} of width {other[1]}."
        )


def state_pairs(layers: Layers, depth: int) -> list[tuple[int, int]]:
    """Pair the hidden states of the layers that stay with those of the whole model's layers.

    The embeddings are a pair, and the last state is paired with the whole model's last one.
    """
    stay = [layer for layer in range(depth) if layer not in left_out(layers)]
    places = [0, *(layer + 1 for layer in stay[:-1]), depth]
    return list(enumerate(places))


def external_teacher(
    config: SandwichConfig,
    context: StageContext,
    inputs: Mapping[str, Any],
    opened: Checkpoint,
    plan: Plan,
) -> Teacher | None:
    """Return the teacher where the options give it a weight, else None.

    One that reads the student's tokens is in the loop, the answers of others are stored first.
    """
    if not config.follows_answers:
        return None
    places, own = teacher_places(config, inputs), str(inputs.get("teacher"))
    if not places and not reads_tokens(own, opened.tokenizer):
        places = [own]
    if places:
        spec = inputs["data"]
        answers = store_answers(places, config, context, student=opened, spec=spec, plan=plan)
        return AnswersOf(answers)
    teacher = load_with_data(own, inputs["data"])
    check_teacher(teacher, opened)
    return LiveTeacher(teacher.model)


def selection_scores(opened: Checkpoint, config: SandwichConfig) -> dict[str, float]:
    """Score the selection slice at full length and at the smallest trained lengths."""
    metric = opened.data.task.metric
    least = (opened.model.structures or [()])[-1]
    smallest = constant_drop(
        config.bound,
        layers=opened.model.num_layers,
        sequence_length=opened.data.spec.max_length,
        skipped=left_out(least),
    ).of(least)
    scores = {
        name: score_selection(opened, batch_size=config.batch_size, lengths=lengths)[metric]
        for name, lengths in (("full", None), ("smallest", smallest))
    }
    return scores | {"mean": (scores["full"] + scores["smallest"]) / 2}
