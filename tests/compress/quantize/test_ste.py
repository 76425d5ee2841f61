from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from quala.compress.quantize.rounding import fake_affine, fake_learned, row_integers

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


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rows_use_their_own_largest_weight(bits: int) -> None:
    weight = _noise(4, 30) * torch.tensor([[0.01], [1.0], [10.0], [0.0]])
    integers, step = row_integers(weight, bits)
    top = 2 ** (bits - 1) - 1
    assert integers.abs().amax(dim=1).tolist() == [top, top, top, 0]
    assert ((integers * step - weight).abs() <= step / 2 * (1 + 1e-5)).all()


def test_rows_leave_weights_on_the_grid_alone() -> None:
    weight = torch.tensor([[127.0, -3.0, 0.0], [-1.27, 0.5, 0.25]])
    integers, step = row_integers(weight, 8)
    assert torch.allclose(integers * step, weight, rtol=1e-6)


def test_rows_equal_the_kernel_of_torch() -> None:
    weight = _noise(6, 40)
    scale = weight.abs().amax(dim=1) / 127
    zeros = torch.zeros(6, dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -127, 127)
    integers, step = row_integers(weight, 8)
    assert torch.allclose(integers * step, expected, atol=1e-6)


def test_learned_step_has_the_gradient_of_equation_3() -> None:
    x = torch.tensor([-0.9, -0.24, 0.0, 0.13, 0.56, 5.0], requires_grad=True)
    step = STEP.clone().requires_grad_()
    upstream = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    fake_learned(x, step, ZERO, levels=15).backward(upstream)
    slopes = [-3, -2 + 2.4, 0, 1 - 1.3, 6 - 5.6, 12]
    expected = sum(g * s for g, s in zip(upstream.tolist(), slopes)) / math.sqrt(6 * 12)
    assert step.grad is not None
    assert step.grad.item() == pytest.approx(expected, rel=1e-5)


def test_learned_step_agrees_with_finite_differences_outside_the_range() -> None:
    x = torch.tensor([-4.0, 4.0, 5.0])  # all clipped, where rounding is no obstacle
    step = STEP.clone().requires_grad_()
    fake_learned(x, step, ZERO, levels=15).sum().backward()
    up = fake_learned(x, STEP + 1e-2, ZERO, levels=15).sum()
    down = fake_learned(x, STEP - 1e-2, ZERO, levels=15).sum()
    slope = ((up - down) / 2e-2).item()
    assert step.grad is not None
    assert step.grad.item() == pytest.approx(slope / math.sqrt(3 * 12), rel=1e-4)


def test_learned_step_passes_input_gradient_only_inside() -> None:
    x = torch.tensor([-0.9, 0.2, 5.0], requires_grad=True)
    fake_learned(x, STEP.clone().requires_grad_(), ZERO, levels=15).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 0]
