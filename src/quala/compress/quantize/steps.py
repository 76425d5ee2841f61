"""Where a learned step starts: four published rules."""

from __future__ import annotations

import math
from typing import get_args

import torch
from torch import Tensor

from quala.compress.quantize.histogram import kl_clip
from quala.compress.quantize.spec import StepInit
from quala.compress.quantize.ste import SMALLEST_STEP
from quala.errors import QualaError, unknown

TRUNCATED = 0.05


def initial_step(groups: Tensor, init: StepInit, top: int) -> Tensor:
    """Return the first step of each group (..., n), shape (...), for integers up to `top`.

    `mean_abs`: 2 mean|x| / sqrt(top) (LSQ, arXiv 1902.08153); the others divide a
    clip by `top`: `max` max|x|; `truncation` the larger end after 2.5 % of the values are cut at
    either end; `kl` the clip of least divergence (both KDLSQ-BERT, arXiv 2101.05938).

    Raises:
        QualaError: for another rule, or for `kl` on more than one group: a row has too few values
            for a histogram.
    """
    return step_of(spread(groups, init, top), init, top)


def spread(groups: Tensor, init: StepInit, top: int) -> Tensor:
    """Return what `step_of` makes the step of: 2 mean|x| for `mean_abs`, else the clip, (...)."""
    if init not in get_args(StepInit):
        raise unknown("step initialisation", init, get_args(StepInit))
    if init == "mean_abs":
        return groups.abs().mean(dim=-1).mul_(2)
    if init == "max":
        return groups.abs().amax(dim=-1)
    if init == "truncation":
        return _truncated(groups)
    if groups.numel() != groups.shape[-1]:
        raise QualaError(
            f"Step initialisation `kl` got {groups.numel() // groups.shape[-1]} groups; "
            "allowed is one, with granularity `tensor`."
        )
    clip = groups.new_tensor(kl_clip(groups, levels=top + 1))
    return clip.expand(groups.shape[:-1]).clone()


def step_of(spread: Tensor, init: StepInit, top: int) -> Tensor:
    """Return the step that the `spread` of a rule gives on a grid up to `top`."""
    divisor = math.sqrt(top) if init == "mean_abs" else top
    return (spread / divisor).clamp_(min=SMALLEST_STEP)


def _truncated(groups: Tensor) -> Tensor:
    values = groups.shape[-1]
    cut = int(values * TRUNCATED / 2)
    low = groups.kthvalue(cut + 1, dim=-1).values
    high = groups.kthvalue(values - cut, dim=-1).values
    return torch.maximum(low.abs(), high.abs())
