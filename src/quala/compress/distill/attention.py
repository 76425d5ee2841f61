"""The teacher's attention scores before the softmax (TinyBERT, arXiv 1909.10351, equation 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from quala.compress.distill.layer_map import check_pairs
from quala.errors import QualaError


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
