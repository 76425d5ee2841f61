from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from quala.compress.quantize.grids import bwn_integers


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
def test_codes_and_scale_have_the_least_squared_error_of_all(seed: int) -> None:
    w = _noise(8, seed=seed)
    losses = {}
    for signs in itertools.product((-1.0, 1.0), repeat=8):
        b = torch.tensor(signs, dtype=torch.float64)
        alpha = (w @ b) / (b @ b)  # least squares of w = alpha b
        losses[signs] = ((w - alpha * b).square().sum().item(), alpha.item())
    codes, scale = bwn_integers(w)
    assert (w - scale * codes).square().sum().item() == pytest.approx(
        min(loss for loss, _ in losses.values()), rel=1e-12
    )
    assert scale.item() == pytest.approx(losses[tuple(codes.tolist())][1], rel=1e-12)


def test_each_group_has_its_own_scale() -> None:
    groups = torch.tensor([[1.0, -3.0], [0.5, 0.5]])
    codes, scale = bwn_integers(groups)
    assert scale.tolist() == [[2.0], [0.5]]
    assert codes.tolist() == [[1, -1], [1, 1]]


def test_zero_counts_as_positive() -> None:
    codes, scale = bwn_integers(torch.zeros(1, 3))
    assert codes.tolist() == [[1, 1, 1]]
    assert scale.tolist() == [[0]]
