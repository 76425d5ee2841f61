from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from quala.compress.losses import attention_loss
from quala.errors import QualaError

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def _layer(heads: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, heads, 4, size)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def test_it_is_the_mean_over_real_entries() -> None:
    (own_q, own_k), (goal_q, goal_k) = _layer(3, 4, 0), _layer(3, 8, 1)
    errors = []
    for b, n in ((0, 4), (1, 2)):
        own = own_q[b, :, :n] @ own_k[b, :, :n].transpose(-1, -2) / math.sqrt(4)
        goal = goal_q[b, :, :n] @ goal_k[b, :, :n].transpose(-1, -2) / math.sqrt(8)
        errors.append((own - goal).square().flatten())
    got = attention_loss([(own_q, own_k)], [(goal_q, goal_k)], pairs=[(0, 0)], mask=MASK)
    assert torch.allclose(got, torch.cat(errors).mean(), rtol=1e-5)


def test_an_equal_student_costs_nothing() -> None:
    layers = [_layer(2, 4, 0), _layer(2, 4, 1)]
    assert attention_loss(layers, layers, pairs=[(0, 0), (1, 1)], mask=MASK) == 0


def test_layers_add_up() -> None:
    student, teacher = [_layer(2, 4, 0)], [_layer(2, 4, 1)]
    one = attention_loss(student, teacher, pairs=[(0, 0)], mask=MASK)
    two = attention_loss(student * 2, teacher * 2, pairs=[(0, 0), (1, 1)], mask=MASK)
    assert torch.allclose(two, 2 * one)


def test_more_padding_changes_nothing() -> None:
    student, teacher = _layer(2, 4, 0), _layer(2, 4, 1)
    plain = attention_loss([student], [teacher], pairs=[(0, 0)], mask=MASK)
    longer = [tuple(torch.cat([t, 9 * t], dim=2) for t in side) for side in (student, teacher)]
    mask = torch.cat([MASK, torch.zeros_like(MASK)], dim=1)
    padded = attention_loss(
        [(longer[0][0], longer[0][1])], [(longer[1][0], longer[1][1])], pairs=[(0, 0)], mask=mask
    )
    assert torch.allclose(padded, plain)


def test_scores_are_held_against_the_heads_that_are_named() -> None:
    student = [_layer(2, 4, 0), _layer(1, 4, 1)]
    teacher = [_layer(4, 4, 2), _layer(3, 4, 3)]
    heads = [[3, 1], [2]]
    chosen = [(q[:, places], k[:, places]) for (q, k), places in zip(teacher, heads, strict=True)]
    pairs = [(1, 1), (0, 0)]  # the heads go with the pairs, not with the layers
    got = attention_loss(student, teacher, pairs=pairs, mask=MASK, heads=heads[::-1])
    assert got == attention_loss(student, chosen, pairs=pairs, mask=MASK)


def test_different_head_counts_are_refused() -> None:
    with pytest.raises(QualaError, match="head counts"):
        attention_loss([_layer(2, 4, 0)], [_layer(4, 4, 1)], pairs=[(0, 0)], mask=MASK)
