""""""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from quala.compress.quantize.rounding import (
    at_least,
    fake_affine,
    fake_affine_lsq,
    fake_symmetric_lsq,
    symmetric_integers,
)

STEP, ZERO = torch.tensor(0.1), torch.tensor(3.0)


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_affine_equals_the_kernel_of_torch() -> None:
    x = _noise(200)
    expected = torch.fake_quantize_per_tensor_affine(x, 0.1, 3, 0, 15)
    assert torch.allclose(fake_affine(x, STEP, ZERO, levels=15), expected, atol=1e-7)


def test_affine_keeps_zero_exact() -> None:
    assert fake_affine(torch.zeros(2), torch.tensor(0.037), ZERO, levels=15).tolist() == [0, 0]


def test_affine_passes_gradient_only_inside_the_range() -> None:
    x = torch.tensor([-0.6, -0.3, 0.0, 0.77, 1.2, 1.3], requires_grad=True)
    fake_affine(x, STEP, ZERO, levels=15).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_affine_keeps_half_precision_outside_and_float32_inside() -> None:
    x = _noise(50).bfloat16()
    step = torch.tensor(0.02)
    rounded = fake_affine(x, step, torch.tensor(128.0), levels=255)
    expected = fake_affine(x.float(), step, torch.tensor(128.0), levels=255).bfloat16()
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, expected)


def test_learned_step_has_the_gradient_of_equation_3() -> None:
    x = torch.tensor([-0.9, -0.24, 0.0, 0.13, 0.56, 5.0], requires_grad=True)
    step = STEP.clone().requires_grad_()
    upstream = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    fake_affine_lsq(x, step, ZERO, levels=15).backward(upstream)
    slopes = [-3, -2 + 2.4, 0, 1 - 1.3, 6 - 5.6, 12]
    expected = sum(g * s for g, s in zip(upstream.tolist(), slopes)) / math.sqrt(6 * 12)
    assert step.grad is not None
    assert step.grad.item() == pytest.approx(expected, rel=1e-5)


def test_learned_step_agrees_with_finite_differences_outside_the_range() -> None:
    x = torch.tensor([-4.0, 4.0, 5.0])  # all clipped, where rounding is no obstacle
    step = STEP.clone().requires_grad_()
    fake_affine_lsq(x, step, ZERO, levels=15).sum().backward()
    up = fake_affine_lsq(x, STEP + 1e-2, ZERO, levels=15).sum()
    down = fake_affine_lsq(x, STEP - 1e-2, ZERO, levels=15).sum()
    slope = ((up - down) / 2e-2).item()
    assert step.grad is not None
    assert step.grad.item() == pytest.approx(slope / math.sqrt(3 * 12), rel=1e-4)


def test_learned_step_passes_input_gradient_only_inside() -> None:
    x = torch.tensor([-0.9, 0.2, 5.0], requires_grad=True)
    fake_affine_lsq(x, STEP.clone().requires_grad_(), ZERO, levels=15).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 0]


WIDTHS = [1, 3, 7]


def _lsq_noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _loss(values: list[float]) -> float:
    return sum(math.sin(3 * value + i) for i, value in enumerate(values))


def _surrogate(w: list[float], s: float, offsets: list[float | None], top: int) -> float:
    """Return the loss with rounding as an offset held constant: smooth in `w` and `s`.

    Inside the grid round(v) = v + c, so a value is w + c s; outside it is the end of the grid.
    """
    values = [math.copysign(top, x) * s if c is None else x + c * s for x, c in zip(w, offsets)]
    return _loss(values)


def _offsets(w: list[float], s: float, top: int) -> list[float | None]:
    return [None if abs(x / s) >= top else round(x / s) - x / s for x in w]


@pytest.mark.parametrize("top", WIDTHS)
@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_those_of_the_smooth_surrogate(top: int, seed: int) -> None:
    weight, start, h = _lsq_noise(40, seed=seed), 1.2 / top, 1e-6
    w, offsets = weight.tolist(), _offsets(weight.tolist(), start, top)
    assert 0 < sum(c is None for c in offsets) < 40  # both inside and outside the grid
    groups = weight.clone().requires_grad_()
    step = torch.tensor([start], dtype=torch.float64, requires_grad=True)
    rounded = fake_symmetric_lsq(groups, step, top, count=40)
    assert _loss(rounded.tolist()) == pytest.approx(_surrogate(w, start, offsets, top))
    (3 * rounded + torch.arange(40)).sin().sum().backward()
    slope = (_surrogate(w, start + h, offsets, top) - _surrogate(w, start - h, offsets, top)) / (
        2 * h
    )
    assert step.grad is not None
    assert step.grad.item() == pytest.approx(slope / math.sqrt(40 * top), rel=1e-6)
    assert groups.grad is not None
    for i in range(40):
        up, down = ([*w[:i], w[i] + e, *w[i + 1 :]] for e in (h, -h))
        slope = (_surrogate(up, start, offsets, top) - _surrogate(down, start, offsets, top)) / (
            2 * h
        )
        assert groups.grad[i].item() == pytest.approx(slope, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("top", WIDTHS)
def test_codes_are_the_nearest_of_the_grid(top: int) -> None:
    weight, step = _lsq_noise(50), 0.3
    grid = torch.arange(-top, top + 1, dtype=torch.float64)
    nearest = grid[(weight.unsqueeze(1) - grid * step).abs().argmin(dim=1)]
    assert torch.equal(symmetric_integers(weight, torch.tensor([step]).double(), top), nearest)


def test_each_group_has_its_own_step_and_gradient() -> None:
    groups, steps = _lsq_noise(3, 20), torch.tensor([[0.2], [0.4], [0.1]], dtype=torch.float64)
    upstream = _lsq_noise(3, 20, seed=1)
    together = steps.clone().requires_grad_()
    fake_symmetric_lsq(groups, together, 3, count=20).backward(upstream)
    assert together.grad is not None
    for row in range(3):
        alone = steps[row].clone().requires_grad_()
        fake_symmetric_lsq(groups[row], alone, 3, count=20).backward(upstream[row])
        assert alone.grad is not None
        assert torch.allclose(together.grad[row], alone.grad, rtol=1e-12)


@pytest.mark.parametrize("start", [-1.0, 0.0])
def test_a_step_below_its_floor_is_lifted_and_still_receives_its_gradient(start: float) -> None:
    step = torch.tensor([start], requires_grad=True)
    lifted = at_least(step, torch.tensor([0.01]))
    (lifted * 3).sum().backward()
    assert lifted.item() == pytest.approx(0.01)
    assert step.grad is not None
    assert step.grad.item() == 3
