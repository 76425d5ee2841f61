"""The losses of a distillation: what each needs of student and teacher, and its formula.

Options are checked before torch is imported, so the formulas import it when they run.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from quala.compress.layer_maps import check_pairs, hidden_pairs
from quala.errors import QualaError, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from quala.compress.partial_states import KeptState
    from quala.data.features import Batch
    from quala.data.task import Task
    from quala.models.selection import Trace

Direction = Literal["forward", "reverse", "cross_entropy"]
StateError = Literal["mse", "cosine"]
"""How hidden states are compared: mean squared error, or one minus the cosine of each token."""
Needs = Literal["labels", "answers", "hidden", "attention", "heads"]
"""What a loss reads: `labels`, only the student's answers and the labels; `answers`, both sides'
answers; `hidden`, their hidden states; `attention`, their queries, keys and values; `heads`, the
same, where each head of the student is compared with one of the teacher's."""


@dataclass(frozen=True, slots=True, eq=False)
class TeacherOutput:
    """A teacher's answers to a batch, and its inner states: in full, or the part that is kept."""

    logits: Tensor  # (B, n, outputs) or (B, outputs)
    trace: Trace | None = None
    kept: tuple[tuple[int, KeptState], ...] = ()
    """The number of a student's hidden state, and the kept part of the one that it follows."""


@dataclass(frozen=True)
class LossSetup:
    """What all steps of a distillation have in common."""

    task: Task
    pairs: Sequence[tuple[int, int]]
    """A student's layer and the teacher's layer that it follows."""
    heads: Sequence[Sequence[int]] | None = None
    """For each pair, the teacher's head that each head of the student is compared with."""
    temperature: float = 1.0
    relation_heads: int = 1
    hidden_loss: StateError = "mse"
    embeddings: int = 0
    """The teacher's hidden state that the student's embeddings follow, see `hidden_pairs`."""


@dataclass(frozen=True, slots=True, eq=False)
class LossInputs:
    """What a loss may read of one training step."""

    setup: LossSetup
    batch: Batch
    logits: Tensor
    """The student's answers: (B, n, 2) for spans, (B, outputs) otherwise."""
    teacher: TeacherOutput
    trace: Trace | None = None
    """The student's inner states, where a loss of this step needs them; `teacher.trace` has the
    teacher's, unless they come from a cache."""
    projection: Callable[[Tensor], Tensor] | None = None
    """Maps the student's hidden states to the teacher's width, where they differ."""

    @property
    def mask(self) -> Tensor:
        """1 for real tokens, (B, n)."""
        return self.batch["attention_mask"]


class DistillLoss(ABC):
    """One term of a distillation.

    A term joins by a line in `quala.plugins.LOSSES`, by an entry point of the group
    `quala.losses`, or by the dotted path of its class; its weight is an option.
    """

    needs: ClassVar[Needs] = "answers"
    reads_kept: ClassVar[bool] = False
    """Whether it reads `teacher.kept` where a cache holds the teacher's hidden states."""

    @property
    def inner(self) -> bool:
        """Whether it follows inner states, which are traced then; `inner_first` starts with it."""
        return self.needs not in ("labels", "answers")

    @property
    def cached(self) -> bool:
        """Whether a cache of the teacher has all that it needs."""
        return not self.inner or self.reads_kept

    @abstractmethod
    def __call__(self, inputs: LossInputs) -> Tensor:
        """Return the loss of one step, without its weight."""


class HardLoss(DistillLoss):
    """The task loss on the labels."""

    needs = "labels"

    def __call__(self, inputs: LossInputs) -> Tensor:
        return inputs.setup.task.loss(inputs.logits, inputs.batch)


class SoftLoss(DistillLoss):
    """The teacher's answers as labels (arXiv 1503.02531)."""

    needs = "answers"

    def __call__(self, inputs: LossInputs) -> Tensor:
        setup = inputs.setup
        return soft_loss(
            setup.task,
            inputs.logits,
            inputs.teacher.logits,
            inputs.batch,
            temperature=setup.temperature,
        )


def soft_loss(
    task: Task,
    student: Tensor,
    teacher: Tensor,
    batch: Batch,
    *,
    direction: Direction = "forward",
    temperature: float = 1.0,
) -> Tensor:
    """Return the loss of soft labels as the task has it: for most tasks their `divergence`."""
    measure = partial(divergence, direction=direction, temperature=temperature)
    return task.soft_loss(student, teacher, batch["attention_mask"], measure)


def divergence(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, direction: Direction = "forward"
) -> Tensor:
    """Return the divergence of two stacks of log-scores (B, D, K): sum over K, mean over B and D.

    Scores at the lowest finite value, on either side, are padding and add exactly 0. The result is
    multiplied by temperature^2, so that gradients keep their size. The teacher receives none.

    Raises:
        QualaError: for shapes that differ or a temperature that is not positive.
    """
    if student.shape != teacher.shape:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise QualaError(f"Soft labels need equal shapes, got {shapes}.")
    if temperature <= 0:
        raise QualaError(f"`temperature` is {temperature}; allowed is above 0.")
    real = _real(student) & _real(teacher)  # (B, D, K)
    log_s = _log_probabilities(student, real, temperature)
    log_t = _log_probabilities(teacher.detach(), real, temperature)
    if direction == "forward":
        terms = log_t.exp() * (log_t - log_s)
    elif direction == "reverse":
        terms = log_s.exp() * (log_s - log_t)
    elif direction == "cross_entropy":
        terms = -log_t.exp() * log_s
    else:
        raise unknown("distillation direction", direction, ("forward", "reverse", "cross_entropy"))
    return terms.masked_fill(~real, 0).sum(dim=-1).mean() * temperature**2


def _real(scores: Tensor) -> Tensor:
    return scores > _lowest(scores)


def _log_probabilities(scores: Tensor, real: Tensor, temperature: float) -> Tensor:
    scores = scores.float().masked_fill(~real, 0) / temperature
    lowest = _lowest(scores)
    log_p = scores.masked_fill(~real, lowest).log_softmax(dim=-1)
    return log_p.masked_fill(~real, lowest)


class HiddenLoss(DistillLoss):
    """Error of the hidden states, embeddings included (TinyBERT, arXiv 1909.10351)."""

    needs = "hidden"
    reads_kept = True

    def __call__(self, inputs: LossInputs) -> Tensor:
        from quala.compress.partial_states import kept_loss

        measure = inputs.setup.hidden_loss
        if inputs.trace is not None and inputs.teacher.kept:
            return kept_loss(
                inputs.trace.hidden,
                inputs.teacher.kept,
                projection=inputs.projection,
                error=_error_of(measure),
            )
        student, teacher = both_traces(inputs)
        return hidden_loss(
            student.hidden,
            teacher.hidden,
            pairs=hidden_pairs(inputs.setup.pairs, inputs.setup.embeddings),
            mask=inputs.mask,
            projection=inputs.projection,
            measure=measure,
        )


def hidden_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    pairs: Sequence[tuple[int, int]],
    mask: Tensor,
    projection: Callable[[Tensor], Tensor] | None = None,
    measure: StateError = "mse",
) -> Tensor:
    """Return the error of hidden states: mean over real tokens (and width), sum over pairs.

    Args:
        student: hidden states (B, n, H_s), entry 0 the embedding output.
        teacher: hidden states (B, n, H_t), likewise; they receive no gradient.
        pairs: student index and teacher index, see `hidden_pairs`.
        mask: (B, n), 1 for real tokens.
        projection: maps H_s to H_t, for instance a learned `nn.Linear`; needed where they differ.
        measure: see `StateError`.

    Raises:
        QualaError: for widths that differ without a projection, or pairs out of range.
    """
    check_pairs(pairs, student=len(student), teacher=len(teacher))
    real = mask.bool()  # (B, n)
    error, terms = _error_of(measure), []
    for s, t in pairs:
        own, goal = student[s][real], teacher[t].detach()[real]  # (real, H)
        own = projection(own) if projection is not None else own
        if own.shape != goal.shape:
            raise QualaError(
                f"Hidden states of width {own.shape[-1]} and {goal.shape[-1]} need a projection."
            )
        terms.append(error(own, goal))
    return _total(terms)


def _error_of(measure: StateError) -> Callable[[Tensor, Tensor], Tensor]:
    from quala.compress.partial_states import cosine_error, squared_error

    return {"mse": squared_error, "cosine": cosine_error}[measure]


class AttentionLoss(DistillLoss):
    """Squared error of the attention scores, head by head (TinyBERT, arXiv 1909.10351)."""

    needs = "heads"

    def __call__(self, inputs: LossInputs) -> Tensor:
        student, teacher = both_traces(inputs)
        return attention_loss(
            list(zip(student.queries, student.keys, strict=True)),
            list(zip(teacher.queries, teacher.keys, strict=True)),
            pairs=inputs.setup.pairs,
            mask=inputs.mask,
            heads=inputs.setup.heads,
        )


def attention_loss(
    student: Sequence[tuple[Tensor, Tensor]],
    teacher: Sequence[tuple[Tensor, Tensor]],
    *,
    pairs: Sequence[tuple[int, int]],
    mask: Tensor,
    heads: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """Return the squared error of q k^T / sqrt(d): mean over real entries, sum over pairs.

    An entry is real where both its query and its key are. Computed from queries and keys, so that
    the model may keep its fused attention.

    Args:
        student: queries and keys of each layer, each (B, h, n, d_s).
        teacher: likewise (B, h, n, d_t); they receive no gradient.
        pairs: student layer and teacher layer, see `layer_pairs`.
        mask: (B, n), 1 for real tokens.
        heads: for each pair the teacher's heads, one for each head of the student, such as those
            that a narrower student was copied from; None holds all against all, in order.

    Raises:
        QualaError: for head counts that differ, or pairs out of range.
    """
    check_pairs(pairs, student=len(student), teacher=len(teacher))
    real = mask.bool()
    both = real[:, None, :, None] & real[:, None, None, :]  # (B, 1, n, n)
    terms = []
    for place, (s, t) in enumerate(pairs):
        (own_q, own_k), (goal_q, goal_k) = student[s], teacher[t]
        if heads is not None:
            goal_q, goal_k = goal_q[:, list(heads[place])], goal_k[:, list(heads[place])]
        count = own_q.shape[1]
        if count != goal_q.shape[1]:
            raise QualaError(
                f"Attention scores need equal head counts, got {count} and {goal_q.shape[1]}; "
                "use the relation loss."
            )
        error = _scores(own_q, own_k) - _scores(goal_q.detach(), goal_k.detach())  # (B, h, n, n)
        error = error.masked_fill(~both, 0)
        terms.append(error.square().sum() / (both.sum() * count))
    return _total(terms)


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    return (queries / math.sqrt(queries.shape[-1])) @ keys.transpose(-1, -2)


class RelationLoss(DistillLoss):
    """Self-attention relations of the last pair of layers (MiniLMv2, arXiv 2012.15828)."""

    needs = "attention"

    def __call__(self, inputs: LossInputs) -> Tensor:
        student, teacher = both_traces(inputs)
        own, other = inputs.setup.pairs[-1]
        return relation_loss(
            [side[own] for side in (student.queries, student.keys, student.values)],
            [side[other] for side in (teacher.queries, teacher.keys, teacher.values)],
            relation_heads=inputs.setup.relation_heads,
            mask=inputs.mask,
        )


def relation_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], *, relation_heads: int, mask: Tensor
) -> Tensor:
    """Return KL(teacher || student) of the relations softmax(A A^T / sqrt(d_r)), summed over A.

    Heads are concatenated and split again into `relation_heads`. Each example's term is the mean
    over relation heads and real tokens; padding is neither query nor key. Mean over examples.

    Args:
        student: queries, keys, values (or any of them) of one layer, each (B, h_s, n, d_s).
        teacher: the same kinds, each (B, h_t, n, d_t); they receive no gradient.
        relation_heads: divides both widths h_s * d_s and h_t * d_t.
        mask: (B, n), 1 for real tokens.

    Raises:
        QualaError: when a width is not divisible, or the two sides differ in number.
    """
    if len(student) != len(teacher) or not student:
        raise QualaError(
            f"Relations need as many tensors of each side, got {len(student)} and {len(teacher)}."
        )
    real = mask.bool()
    terms = []
    for own, goal in zip(student, teacher):
        log_s = _log_relations(own, relation_heads, real)
        log_t = _log_relations(goal.detach(), relation_heads, real)
        divergence = (log_t.exp() * (log_t - log_s)).sum(dim=-1)  # (B, A, n)
        divergence = divergence.mean(dim=1).masked_fill(~real, 0)  # (B, n)
        terms.append((divergence.sum(dim=-1) / real.sum(dim=-1).clamp(min=1)).mean())
    return _total(terms)


def _log_relations(heads: Tensor, relation_heads: int, real: Tensor) -> Tensor:
    """Return log-relations (B, A, n, n), the lowest finite value at padding keys."""
    batch, count, n, size = heads.shape
    if relation_heads < 1 or (count * size) % relation_heads:
        raise QualaError(
            f"`relation_heads` {relation_heads} does not divide width {count * size}."
        )
    joined = heads.transpose(1, 2).reshape(batch, n, relation_heads, -1)  # (B, n, A, d_r)
    split = joined.transpose(1, 2).float()  # (B, A, n, d_r)
    scores = (split / math.sqrt(split.shape[-1])) @ split.transpose(-1, -2)  # (B, A, n, n)
    padding = ~real[:, None, None, :]
    lowest = _lowest(scores)
    # Filled again after the softmax: both sides equal there, so their difference is exactly 0.
    return scores.masked_fill(padding, lowest).log_softmax(dim=-1).masked_fill(padding, lowest)


def both_traces(inputs: LossInputs) -> tuple[Trace, Trace]:
    """Return the inner states of student and teacher.

    Raises:
        QualaError: for a loss whose `needs` has not asked for them, and for a cached teacher.
    """
    if inputs.trace is None or inputs.teacher.trace is None:
        raise QualaError(
            "Inner states are not traced: `needs` of the loss must be hidden, attention or heads, "
            "and `cache` null."
        )
    return inputs.trace, inputs.teacher.trace


def _total(terms: Sequence[Tensor]) -> Tensor:
    import torch

    return torch.stack(list(terms)).sum()


def _lowest(scores: Tensor) -> float:
    """Return half the lowest value: far below every score, and no difference overflows."""
    import torch

    return torch.finfo(scores.dtype).min / 2
