from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from quala.compress.quantize.config import StepInit
from quala.compress.quantize.grids import initial_step
from quala.errors import QualaError


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_mean_abs_is_the_published_start() -> None:
    x = _noise(60).tolist()
    expected = 2 * sum(map(abs, x)) / 60 / math.sqrt(7)
    assert initial_step(torch.tensor(x), "mean_abs", 7).item() == pytest.approx(expected, rel=1e-6)


def test_max_ends_the_grid_at_the_largest_value() -> None:
    assert initial_step(torch.tensor([0.5, -2.1, 1.0]), "max", 7).item() == pytest.approx(0.3)


def test_truncation_cuts_two_and_a_half_percent_at_either_end() -> None:
    values = [*range(-99, 100), 1000]  # 200 values: five are cut at either end
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    x = torch.tensor(values, dtype=torch.float32)[order]
    assert initial_step(x, "truncation", 1).item() == max(-sorted(values)[5], sorted(values)[-6])


@pytest.mark.parametrize("init", ["mean_abs", "max", "truncation"])
def test_each_group_starts_alone(init: StepInit) -> None:
    groups = _noise(3, 4, 50)
    together = initial_step(groups, init, 3)
    assert together.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            alone = initial_step(groups[i, j], init, 3).item()
            assert together[i, j].item() == pytest.approx(alone, rel=1e-6)


def test_clipping_rules_lie_below_the_largest_value() -> None:
    x = torch.cat([_noise(5000), torch.tensor([40.0])])  # one outlier
    largest = initial_step(x, "max", 7)
    assert initial_step(x, "truncation", 7) < largest / 10
    assert initial_step(x, "kl", 7) < largest / 2


def test_one_group_may_be_shaped_as_a_tensor_of_groups() -> None:
    x = _noise(1, 1, 500)
    assert initial_step(x, "kl", 7).shape == (1, 1)
    assert initial_step(x, "kl", 7).item() == initial_step(x.flatten(), "kl", 7).item()


def test_kl_refuses_rows() -> None:
    with pytest.raises(QualaError, match="got 3 groups"):
        initial_step(_noise(3, 50), "kl", 7)


def test_another_rule_is_refused() -> None:
    with pytest.raises(QualaError, match="mean_abs"):
        initial_step(_noise(5), "mean", 7)  # type: ignore[arg-type]


@pytest.mark.parametrize("init", ["mean_abs", "max", "truncation", "kl"])
def test_zeros_start_with_a_positive_step(init: StepInit) -> None:
    assert initial_step(torch.zeros(100), init, 3) > 0
