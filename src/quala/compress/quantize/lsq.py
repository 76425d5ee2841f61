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
    def forward(ctx: Any, groups: Tensor, step: Tensor, top: int, count: int) -> Tensor:
        v = torch.div(groups, step)
        inside = v.abs() < top
        rounded = v.round_().clamp_(-top, top).mul_(step)
        ctx.save_for_backward(groups, step, inside, rounded)
        ctx.scale = (count * top) ** -0.5
        return rounded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        groups, step, inside, rounded = ctx.saved_tensors
        passed = gradient * inside
        # Equation 3: the slope is round(v) - v inside the grid and round(v) outside, v = w / step.
        slopes = torch.linalg.vecdot(gradient, rounded) - torch.linalg.vecdot(passed, groups)
        return passed, slopes.unsqueeze(-1).div_(step).mul_(ctx.scale), None, None


def fake_steps(groups: Tensor, step: Tensor, top: int, *, count: int | None = None) -> Tensor:
    """Round `groups` (..., n) to i * step, i in -top..top, with a gradient for `step` (..., 1).

    Equations 1 to 3 on the symmetric grid; the gradient of a step is scaled by 1/sqrt(N top),
    where N = `count` says how many values share it, n without it. No gradient for weights outside
    the grid.
    """
    rounded: Tensor = _LearnedSteps.apply(groups, step, top, count or groups.shape[-1])
    return rounded


def at_least(step: Tensor, floor: Tensor) -> Tensor:
    """Return `step` raised to `floor`; a step at the floor still hears its gradient."""
    return step + (floor - step).clamp(min=0).detach()
