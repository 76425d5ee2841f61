"""Attention on the tokens present: the fused kernel, and the published one that shows its rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, *, valid: Tensor | None, dropout: float
) -> Tensor:
    """Return the context (B, heads, n, d); `valid` (B, n) marks the keys, None when all are."""
    if query.dtype == torch.bfloat16 and query.device.type == "cpu":
        # Where bfloat16 halves a GPU's time, it doubles that of the CPU's kernel.
        with torch.autocast("cpu", enabled=False):
            wide = (part.float() for part in (query, key, value))
            return fused_attention(*wide, valid=valid, dropout=dropout).to(query.dtype)
    # A mask, even one that hides nothing, costs the fastest kernel.
    mask = None if valid is None else valid[:, None, None, :]  # (B, 1, 1, n)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


def published_attention(
    query: Tensor, key: Tensor, value: Tensor, *, valid: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    """Return the context and the column sums (B, n) of the very probabilities that made it.

    As published: rows of padding vote too, and in training the probabilities are those that
    dropout left.
    """
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (B, heads, n, n)
    if valid is not None:
        logits = logits.masked_fill(~valid[:, None, None, :], -torch.inf)
    probabilities = F.dropout(logits.softmax(dim=-1), p=dropout)
    return probabilities @ value, probabilities.detach().sum(dim=(1, 2))
