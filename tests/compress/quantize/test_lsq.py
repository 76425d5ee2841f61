from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from quala.compress.quantize.rounding import at_least, fake_steps, step_integers

WIDTHS = [1, 3, 7]


def _noise(*shape: int, seed: int = 0) -> Tensor:
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
    weight, start, h = _noise(40, seed=seed), 1.2 / top, 1e-6
    w, offsets = weight.tolist(), _offsets(weight.tolist(), start, top)
    assert 0 < sum(c is None for c in offsets) < 40  # both inside and outside the grid
    groups = weight.clone().requires_grad_()
    step = torch.tensor([start], dtype=torch.float64, requires_grad=True)
    rounded = fake_steps(groups, step, top)
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
    weight, step = _noise(50), 0.3
    grid = torch.arange(-top, top + 1, dtype=torch.float64)
    nearest = grid[(weight.unsqueeze(1) - grid * step).abs().argmin(dim=1)]
    assert torch.equal(step_integers(weight, torch.tensor([step]).double(), top), nearest)


def test_each_group_has_its_own_step_and_gradient() -> None:
    groups, steps = _noise(3, 20), torch.tensor([[0.2], [0.4], [0.1]], dtype=torch.float64)
    upstream = _noise(3, 20, seed=1)
    together = steps.clone().requires_grad_()
    fake_steps(groups, together, 3).backward(upstream)
    assert together.grad is not None
    for row in range(3):
        alone = steps[row].clone().requires_grad_()
        fake_steps(groups[row], alone, 3).backward(upstream[row])
        assert alone.grad is not None
        assert torch.allclose(together.grad[row], alone.grad, rtol=1e-12)


@pytest.mark.parametrize("start", [-1.0, 0.0])
def test_a_step_below_its_floor_is_lifted_and_still_hears_its_gradient(start: float) -> None:
    step = torch.tensor([start], requires_grad=True)
    lifted = at_least(step, torch.tensor([0.01]))
    (lifted * 3).sum().backward()
    assert lifted.item() == pytest.approx(0.01)
    assert step.grad is not None
    assert step.grad.item() == 3
