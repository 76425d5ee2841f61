"""The teacher's answers as labels (arXiv 1503.02531)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quala.compress.layer_maps import check_pairs
from quala.compress.loss_weights import Direction
from quala.errors import QualaError, unknown

if TYPE_CHECKING:
    from quala.data.features import Batch
    from quala.data.task import Task


def soft_loss(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, direction: Direction = "forward"
) -> Tensor:
    """Return the divergence of two stacks of log-scores (B, D, K): sum over K, mean over B and D.

    Scores at `torch.finfo(dtype).min`, on either side, are padding and add exactly 0. Multiplied
    by temperature^2, so that gradients keep their size. The teacher receives no gradient.

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
    return scores > torch.finfo(scores.dtype).min / 2


def _log_probabilities(scores: Tensor, real: Tensor, temperature: float) -> Tensor:
    # Half the lowest value: far below every score, and no difference of two of them overflows.
    lowest = torch.finfo(torch.float32).min / 2
    scores = scores.float().masked_fill(~real, 0) / temperature
    log_p = scores.masked_fill(~real, lowest).log_softmax(dim=-1)
    return log_p.masked_fill(~real, lowest)


def hidden_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    pairs: Sequence[tuple[int, int]],
    mask: Tensor,
    projection: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the squared error of hidden states: mean over real tokens and width, sum over pairs.

    Args:
        student: hidden states (B, n, H_s), entry 0 the embedding output.
        teacher: hidden states (B, n, H_t), likewise; they receive no gradient.
        pairs: student index and teacher index, see `hidden_pairs`.
        mask: (B, n), 1 for real tokens.
        projection: maps H_s to H_t, for instance a learned `nn.Linear`; needed where they differ.

    Raises:
        QualaError: for widths that differ without a projection, or pairs out of range.
    """
    check_pairs(pairs, student=len(student), teacher=len(teacher))
    real = mask.bool()  # (B, n)
    terms = []
    for s, t in pairs:
        own, goal = student[s][real], teacher[t].detach()[real]  # (real, H)
        own = projection(own) if projection is not None else own
        if own.shape != goal.shape:
            raise QualaError(
                f"Hidden states of width {own.shape[-1]} and {goal.shape[-1]} need a projection."
            )
        terms.append((own - goal).square().mean())
    return torch.stack(terms).sum()


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
    return torch.stack(terms).sum()


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    return (queries / math.sqrt(queries.shape[-1])) @ keys.transpose(-1, -2)


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
    return torch.stack(terms).sum()


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
    lowest = torch.finfo(scores.dtype).min / 2
    # Filled again after the softmax: both sides equal there, so their difference is exactly 0.
    return scores.masked_fill(padding, lowest).log_softmax(dim=-1).masked_fill(padding, lowest)


def task_soft_loss(
    task: Task,
    student: Tensor,
    teacher: Tensor,
    batch: Batch,
    *,
    direction: Direction,
    temperature: float,
) -> Tensor:
    """Return the loss of soft labels as the task has it: for most, `soft_loss`."""
    divergence = partial(soft_loss, direction=direction, temperature=temperature)
    return task.soft_loss(student, teacher, batch["attention_mask"], divergence)
