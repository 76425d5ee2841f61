"""Binary weights with one scale per group (BWN, arXiv 1603.05279)."""

from __future__ import annotations

import torch
from torch import Tensor


def bwn_integers(groups: Tensor, *, whole: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the codes -1 and 1 nearest to `groups` (..., n) and their scales (..., 1).

    alpha = mean|w| minimises sum (w - alpha b)^2 for b = sign(w); 0 counts as positive. The mean
    is that of `whole`, of `groups` without it.
    """
    scale = (groups if whole is None else whole).abs().mean(dim=-1, keepdim=True)
    return torch.where(groups < 0, -1.0, 1.0).to(groups.dtype), scale
