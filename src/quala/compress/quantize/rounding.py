"""How a value is rounded while training: straight-through gradients and learned steps (LSQ)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

SMALLEST_STEP = 1e-12
"""Keeps a grid of zeros from dividing by 0; far below any step of real weights."""


class _Through(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, rounded: Tensor) -> Tensor:
        return rounded.view_as(rounded)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def straight_through(weight: Tensor, rounded: Tensor) -> Tensor:
    """Return the values of `rounded`, with the gradient going to `weight` unchanged."""
    passed: Tensor = _Through.apply(weight, rounded)
    return passed


def affine_integers(x: Tensor, step: Tensor, zero_point: Tensor) -> Tensor:
    """Return round(x / step) + zero_point as floats, before any clamp."""
    # Multiplied by the reciprocal here and in the integer kernels, so that both round alike.
    return torch.mul(x, step.reciprocal()).round_().add_(zero_point)


class _Affine(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, zero_point: Tensor, levels: int) -> Tensor:
        wide = affine_integers(x, step, zero_point)
        if not ctx.needs_input_grad[0]:
            return wide.clamp_(0, levels).sub_(zero_point).mul_(step)
        integers = wide.clamp(0, levels)
        ctx.save_for_backward(integers.eq(wide))  # one byte per value instead of four
        return integers.sub_(zero_point).mul_(step)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None, None


def fake_affine(x: Tensor, step: Tensor, zero_point: Tensor, *, levels: int) -> Tensor:
    """Round `x` to (i - zero_point) * step, i in 0..levels; no gradient outside the range."""
    # Half precision cannot count to 255 exactly, so the grid is always in float32.
    rounded: Tensor = _Affine.apply(x.float(), step, zero_point, levels)
    return rounded.to(x.dtype)


class _AffineLsq(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, zero_point: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward(x, step, zero_point)
        ctx.levels = levels
        integers = affine_integers(x, step, zero_point).clamp_(0, levels)
        return integers.sub_(zero_point).mul_(step)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, step, zero_point = ctx.saved_tensors
        v = x * step.reciprocal()
        low, high = -zero_point, ctx.levels - zero_point  # -Qn, Qp
        inside = (v > low) & (v < high)
        slope = v.round().clamp_(low, high).sub_(v.mul_(inside))  # equation 3
        scale = torch.rsqrt(x.numel() * torch.maximum(zero_point, high))
        return gradient * inside, (gradient * slope).sum().mul_(scale), None, None


def fake_affine_lsq(x: Tensor, step: Tensor, zero_point: Tensor, *, levels: int) -> Tensor:
    """Round as `fake_affine`, with a gradient for `step` (LSQ, arXiv 1902.08153, equations 2-3).

    The step's gradient is scaled by 1/sqrt(N Qp), where N counts the values of `x` and Qp is the
    larger of the integers below and above the zero point. LSQ's N counts those of one example;
    under Adam the difference changes only the norm that clipping sees.
    """
    rounded: Tensor = _AffineLsq.apply(x.float(), step, zero_point, levels)
    return rounded.to(x.dtype)


def symmetric_integers(groups: Tensor, step: Tensor, top: int) -> Tensor:
    """Return clamp(round(groups / step), -top, top) as floats; `step` (..., 1) is positive."""
    return torch.div(groups, step).round_().clamp_(-top, top)


class _SymmetricLsq(Function):
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


def fake_symmetric_lsq(groups: Tensor, step: Tensor, top: int, *, count: int) -> Tensor:
    """Round `groups` (..., n) to i * step, i in -top..top, with a gradient for `step` (..., 1).

    Equations 1 to 3 of LSQ (arXiv 1902.08153) on the symmetric grid. The gradient of a step is
    scaled by 1/sqrt(N top), where N = `count` is the number of values that share the step. Weights
    outside the grid get no gradient.
    """
    rounded: Tensor = _SymmetricLsq.apply(groups, step, top, count)
    return rounded


def at_least(step: Tensor, floor: Tensor) -> Tensor:
    """Return `step` raised to `floor`; a step at the floor still receives its gradient."""
    return step + (floor - step).clamp(min=0).detach()
