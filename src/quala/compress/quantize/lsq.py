"""Learned steps of weights (LSQ, arXiv 1902.08153)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def step_integers(groups: Tensor, step: Tensor, top: int) -> Tensor:
    """Return clamp(round(groups / step), -top, top) as floats; `step` (..., 1) is positive."""
    return torch.div(groups, step).round_().clamp_(-top, top)


class _LearnedSteps(Function):
    @staticmethod
    def forward(ctx: Any, groups: Tensor, step: Tensor, top: int) -> Tensor:
        ctx.save_for_backward(groups, step)
        ctx.top = top
        return step_integers(groups, step, top).mul_(step)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        groups, step = ctx.saved_tensors
        v = groups / step
        inside = v.abs() < ctx.top
        slope = v.round().clamp_(-ctx.top, ctx.top).sub_(v.mul_(inside))  # equation 3
        scale = (groups.shape[-1] * ctx.top) ** -0.5
        steps = (gradient * slope).sum(dim=-1, keepdim=True).mul_(scale)
        return gradient * inside, steps, None


def fake_steps(groups: Tensor, step: Tensor, top: int) -> Tensor:
    """Round `groups` (..., n) to i * step, i in -top..top, with a gradient for `step` (..., 1).

    Equations 1 to 3 on the symmetric grid; the gradient of a step is scaled by 1/sqrt(n top),
    where n counts the values that share it. No gradient for weights outside the grid.
    """
    rounded: Tensor = _LearnedSteps.apply(groups, step, top)
    return rounded


def at_least(step: Tensor, floor: Tensor) -> Tensor:
    """Return `step` raised to `floor`; a step at the floor still hears its gradient."""
    return step + (floor - step).clamp(min=0).detach()
