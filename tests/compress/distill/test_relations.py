from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from quala.compress.losses import relation_loss
from quala.errors import QualaError

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def _heads(heads: int, size: int, seed: int) -> Tensor:
    return torch.randn(2, heads, 5, size, generator=torch.Generator().manual_seed(seed))


def _relation(x: Tensor, heads: int) -> Tensor:
    """Relations of one unpadded example, (heads, n, n), one head at a time."""
    joined = torch.cat(list(x), dim=-1)  # (n, h * d)
    parts = joined.chunk(heads, dim=-1)
    return torch.stack([(p @ p.T / math.sqrt(p.shape[-1])).softmax(-1) for p in parts])


def _reference(student: list[Tensor], teacher: list[Tensor], heads: int) -> float:
    total = 0.0
    for own, goal in zip(student, teacher):
        for b, n in ((0, 5), (1, 3)):
            r_s, r_t = _relation(own[b, :, :n], heads), _relation(goal[b, :, :n], heads)
            total += (r_t * (r_t / r_s).log()).sum().item() / (heads * n) / 2
    return total


@pytest.mark.parametrize("relation_heads", [1, 4, 6, 12])
def test_it_equals_the_formula_for_other_widths_and_head_counts(relation_heads: int) -> None:
    student = [_heads(3, 4, seed) for seed in (0, 1, 2)]  # width 12
    teacher = [_heads(4, 6, seed) for seed in (3, 4, 5)]  # width 24
    got = relation_loss(student, teacher, relation_heads=relation_heads, mask=MASK).item()
    assert got == pytest.approx(_reference(student, teacher, relation_heads), rel=1e-4)


def test_an_equal_student_costs_nothing() -> None:
    heads = [_heads(3, 4, 0)]
    assert relation_loss(heads, heads, relation_heads=2, mask=MASK) == 0


def test_padding_changes_neither_loss_nor_gradient() -> None:
    own, goal = _heads(2, 4, 0).requires_grad_(), _heads(2, 4, 1)
    plain = relation_loss([own], [goal], relation_heads=4, mask=MASK)
    mask = torch.cat([MASK, torch.zeros_like(MASK)], dim=1)
    padded = relation_loss(
        [torch.cat([own, 5 * own], dim=2)],
        [torch.cat([goal, -goal], dim=2)],
        relation_heads=4,
        mask=mask,
    )
    assert torch.allclose(padded, plain, rtol=1e-5)
    expected = torch.autograd.grad(plain, own)[0]
    assert torch.allclose(torch.autograd.grad(padded, own)[0], expected, atol=1e-6)


def test_the_loss_of_an_example_does_not_depend_on_the_batch() -> None:
    own, goal = _heads(2, 4, 0)[1:], _heads(2, 4, 1)[1:]
    one = relation_loss([own], [goal], relation_heads=2, mask=MASK[1:])
    many = relation_loss(
        [own.expand(8, -1, -1, -1)],
        [goal.expand(8, -1, -1, -1)],
        relation_heads=2,
        mask=MASK[1:].expand(8, -1),
    )
    assert torch.allclose(one, many)


def test_relation_heads_must_divide_both_widths() -> None:
    with pytest.raises(QualaError, match="relation_heads"):
        relation_loss([_heads(3, 4, 0)], [_heads(2, 4, 1)], relation_heads=12, mask=MASK)


def test_both_sides_bring_the_same_kinds() -> None:
    with pytest.raises(QualaError, match="as many"):
        relation_loss([_heads(2, 4, 0)], [], relation_heads=2, mask=MASK)
