from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from quala.compress.losses import hidden_loss
from quala.errors import QualaError

MASK = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
PAIRS = [(0, 0), (1, 2)]


def _states(count: int, width: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 5, width, generator=generator) for _ in range(count)]


def test_it_is_the_mean_over_real_tokens_and_the_sum_over_pairs() -> None:
    student, teacher = _states(2, 6, 0), _states(3, 6, 1)
    expected = 0.0
    for s, t in PAIRS:
        errors = [
            (student[s][b, i] - teacher[t][b, i]).square().mean().item()
            for b in range(2)
            for i in range(5)
            if MASK[b, i]
        ]
        expected += sum(errors) / len(errors)
    got = hidden_loss(student, teacher, pairs=PAIRS, mask=MASK).item()
    assert got == pytest.approx(expected, rel=1e-5)


def test_an_equal_student_costs_nothing() -> None:
    states = _states(3, 6, 0)
    assert hidden_loss(states, states, pairs=[(0, 0), (2, 2)], mask=MASK) == 0


def test_padding_does_not_count() -> None:
    student, teacher = _states(1, 6, 0), _states(1, 6, 1)
    plain = hidden_loss(student, teacher, pairs=[(0, 0)], mask=MASK)
    noisy = [torch.where(MASK.bool()[..., None], student[0], torch.tensor(1e9))]
    assert hidden_loss(noisy, teacher, pairs=[(0, 0)], mask=MASK) == plain


def test_a_projection_bridges_widths_and_learns() -> None:
    projection = nn.Linear(4, 6)
    hidden_loss(
        _states(2, 4, 0), _states(3, 6, 1), pairs=PAIRS, mask=MASK, projection=projection
    ).backward()
    assert projection.weight.grad is not None
    assert projection.weight.grad.abs().sum() > 0


def test_widths_that_differ_need_a_projection() -> None:
    with pytest.raises(QualaError, match="projection"):
        hidden_loss(_states(1, 4, 0), _states(1, 6, 1), pairs=[(0, 0)], mask=MASK)


def test_pairs_out_of_range_are_refused() -> None:
    with pytest.raises(QualaError, match="outside"):
        hidden_loss(_states(1, 4, 0), _states(1, 4, 1), pairs=[(0, 1)], mask=MASK)
