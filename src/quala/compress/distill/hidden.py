"""The teacher's hidden states (TinyBERT, arXiv 1909.10351, equation 8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from quala.compress.distill.layer_map import check_pairs
from quala.errors import QualaError


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
