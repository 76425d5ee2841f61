"""Self-attention relations (MiniLMv2, arXiv 2012.15828): any head counts, any widths."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from quala.errors import QualaError


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
