"""Soft labels, whatever the task."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from quala.compress.losses import (
    Direction,
    attention_loss,
    divergence,
    hidden_loss,
    relation_loss,
    soft_loss,
)
from quala.data.features import Batch
from quala.data.task import Classes, Span, Task, Value
from quala.errors import QualaError

LOWEST = torch.finfo(torch.float32).min
DIRECTIONS: list[Direction] = ["forward", "reverse", "cross_entropy"]


def _scores(seed: int, *shape: int) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _padded(scores: Tensor, extra: int) -> Tensor:
    return functional.pad(scores, (0, extra), value=LOWEST)


@pytest.fixture
def student() -> Tensor:
    return _scores(0, 4, 2, 7)


@pytest.fixture
def teacher() -> Tensor:
    return _scores(1, 4, 2, 7)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_forward_equals_torch(student: Tensor, teacher: Tensor, temperature: float) -> None:
    log_s = (student / temperature).log_softmax(-1).flatten(0, 1)
    log_t = (teacher / temperature).log_softmax(-1).flatten(0, 1)
    expected = functional.kl_div(log_s, log_t, reduction="batchmean", log_target=True)
    got = divergence(student, teacher, temperature=temperature)
    assert torch.allclose(got, expected * temperature**2)


def test_reverse_is_forward_with_the_sides_swapped(student: Tensor, teacher: Tensor) -> None:
    swapped = divergence(teacher, student, direction="forward")
    assert torch.allclose(divergence(student, teacher, direction="reverse"), swapped)


def test_cross_entropy_equals_torch(student: Tensor, teacher: Tensor) -> None:
    expected = functional.cross_entropy(student.flatten(0, 1), teacher.softmax(-1).flatten(0, 1))
    assert torch.allclose(divergence(student, teacher, direction="cross_entropy"), expected)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_an_equal_student_costs_nothing(teacher: Tensor, direction: Direction) -> None:
    assert divergence(_padded(teacher, 3), _padded(teacher, 3), direction=direction) == 0


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_padding_changes_neither_loss_nor_gradient(
    student: Tensor, teacher: Tensor, direction: Direction, temperature: float
) -> None:
    student.requires_grad_()
    plain = divergence(student, teacher, temperature=temperature, direction=direction)
    padded = divergence(
        _padded(student, 377), _padded(teacher, 377), temperature=temperature, direction=direction
    )
    assert torch.allclose(padded, plain, rtol=1e-5)
    expected = torch.autograd.grad(plain, student)[0]
    assert torch.allclose(torch.autograd.grad(padded, student)[0], expected, atol=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_padding_receives_a_gradient_of_exactly_zero(direction: Direction) -> None:
    student = _padded(_scores(0, 2, 1, 3), 2).requires_grad_()
    divergence(student, _padded(_scores(1, 2, 1, 3), 2), direction=direction).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert (student.grad[..., 3:] == 0).all()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_an_answer_that_is_all_padding_adds_nothing(direction: Direction) -> None:
    scores = torch.full((1, 1, 4), LOWEST, requires_grad=True)
    loss = divergence(scores, scores.detach(), direction=direction)
    loss.backward()
    assert loss == 0
    assert scores.grad is not None
    assert (scores.grad == 0).all()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_loss_of_an_example_does_not_depend_on_the_batch(
    student: Tensor, teacher: Tensor, direction: Direction
) -> None:
    one = divergence(student[:1], teacher[:1], direction=direction)
    many = divergence(
        student[:1].expand(32, -1, -1), teacher[:1].expand(32, -1, -1), direction=direction
    )
    assert torch.allclose(one, many)


def test_the_teacher_receives_no_gradient(student: Tensor, teacher: Tensor) -> None:
    teacher.requires_grad_()
    divergence(student.requires_grad_(), teacher, direction="reverse").backward()
    assert teacher.grad is None


def test_unequal_shapes_are_refused(student: Tensor, teacher: Tensor) -> None:
    with pytest.raises(QualaError, match="equal shapes"):
        divergence(student[:, :1], teacher)


def test_a_temperature_of_zero_is_refused(student: Tensor, teacher: Tensor) -> None:
    with pytest.raises(QualaError, match="temperature"):
        divergence(student, teacher, temperature=0)


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


def test_a_cosine_is_that_of_each_real_token() -> None:
    student, teacher = _states(2, 6, 0), _states(3, 6, 1)
    expected = 0.0
    for s, t in PAIRS:
        errors = []
        for b, i in MASK.nonzero().tolist():
            own, goal = student[s][b, i].tolist(), teacher[t][b, i].tolist()
            product = sum(x * y for x, y in zip(own, goal))
            errors.append(1 - product / math.hypot(*own) / math.hypot(*goal))
        expected += sum(errors) / len(errors)
    longer = [3 * state for state in student]  # lengths do not count
    for own in (student, longer):
        got = hidden_loss(own, teacher, pairs=PAIRS, mask=MASK, measure="cosine").item()
        assert got == pytest.approx(expected, rel=1e-5)


def test_equal_hidden_states_cost_nothing() -> None:
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


ATTENTION_MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


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
    got = attention_loss([(own_q, own_k)], [(goal_q, goal_k)], pairs=[(0, 0)], mask=ATTENTION_MASK)
    assert torch.allclose(got, torch.cat(errors).mean(), rtol=1e-5)


def test_equal_attention_costs_nothing() -> None:
    layers = [_layer(2, 4, 0), _layer(2, 4, 1)]
    assert attention_loss(layers, layers, pairs=[(0, 0), (1, 1)], mask=ATTENTION_MASK) == 0


def test_layers_add_up() -> None:
    student, teacher = [_layer(2, 4, 0)], [_layer(2, 4, 1)]
    one = attention_loss(student, teacher, pairs=[(0, 0)], mask=ATTENTION_MASK)
    two = attention_loss(student * 2, teacher * 2, pairs=[(0, 0), (1, 1)], mask=ATTENTION_MASK)
    assert torch.allclose(two, 2 * one)


def test_more_padding_changes_nothing() -> None:
    student, teacher = _layer(2, 4, 0), _layer(2, 4, 1)
    plain = attention_loss([student], [teacher], pairs=[(0, 0)], mask=ATTENTION_MASK)
    longer = [tuple(torch.cat([t, 9 * t], dim=2) for t in side) for side in (student, teacher)]
    mask = torch.cat([ATTENTION_MASK, torch.zeros_like(ATTENTION_MASK)], dim=1)
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
    got = attention_loss(student, teacher, pairs=pairs, mask=ATTENTION_MASK, heads=heads[::-1])
    assert got == attention_loss(student, chosen, pairs=pairs, mask=ATTENTION_MASK)


def test_different_head_counts_are_refused() -> None:
    with pytest.raises(QualaError, match="head counts"):
        attention_loss([_layer(2, 4, 0)], [_layer(4, 4, 1)], pairs=[(0, 0)], mask=ATTENTION_MASK)


RELATION_MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


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
    got = relation_loss(student, teacher, relation_heads=relation_heads, mask=RELATION_MASK).item()
    assert got == pytest.approx(_reference(student, teacher, relation_heads), rel=1e-4)


def test_equal_relations_cost_nothing() -> None:
    heads = [_heads(3, 4, 0)]
    assert relation_loss(heads, heads, relation_heads=2, mask=RELATION_MASK) == 0


def test_padding_changes_neither_relation_loss_nor_gradient() -> None:
    own, goal = _heads(2, 4, 0).requires_grad_(), _heads(2, 4, 1)
    plain = relation_loss([own], [goal], relation_heads=4, mask=RELATION_MASK)
    mask = torch.cat([RELATION_MASK, torch.zeros_like(RELATION_MASK)], dim=1)
    padded = relation_loss(
        [torch.cat([own, 5 * own], dim=2)],
        [torch.cat([goal, -goal], dim=2)],
        relation_heads=4,
        mask=mask,
    )
    assert torch.allclose(padded, plain, rtol=1e-5)
    expected = torch.autograd.grad(plain, own)[0]
    assert torch.allclose(torch.autograd.grad(padded, own)[0], expected, atol=1e-6)


def test_the_relation_loss_of_an_example_does_not_depend_on_the_batch() -> None:
    own, goal = _heads(2, 4, 0)[1:], _heads(2, 4, 1)[1:]
    one = relation_loss([own], [goal], relation_heads=2, mask=RELATION_MASK[1:])
    many = relation_loss(
        [own.expand(8, -1, -1, -1)],
        [goal.expand(8, -1, -1, -1)],
        relation_heads=2,
        mask=RELATION_MASK[1:].expand(8, -1),
    )
    assert torch.allclose(one, many)


def test_relation_heads_must_divide_both_widths() -> None:
    with pytest.raises(QualaError, match="relation_heads"):
        relation_loss([_heads(3, 4, 0)], [_heads(2, 4, 1)], relation_heads=12, mask=RELATION_MASK)


def test_both_sides_bring_the_same_kinds() -> None:
    with pytest.raises(QualaError, match="as many"):
        relation_loss([_heads(2, 4, 0)], [], relation_heads=2, mask=RELATION_MASK)


SPANS = Span()
CLASSES = Classes(3)
VALUES = Value()


def batch() -> Batch:
    mask = torch.ones(2, 5, dtype=torch.int64)
    mask[1, 3:] = 0
    zeros = torch.zeros_like(mask)
    return {
        "input_ids": zeros, "attention_mask": mask, "segment_ids": zeros,
        "feature": torch.arange(2),
    }  # fmt: skip


def logits(task: Task, seed: int) -> Tensor:
    shape = (2, 5, 2) if task is SPANS else (2, task.num_labels)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def loss(task: Task, student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    options = {"direction": "forward", "temperature": 1.0, **options}
    return soft_loss(task, student, teacher, batch(), **options)


@pytest.mark.parametrize("task", [SPANS, CLASSES, VALUES], ids=lambda task: task.kind)
def test_who_says_the_same_has_no_loss(task: Task) -> None:
    assert float(loss(task, logits(task, 0), logits(task, 0))) == pytest.approx(0, abs=1e-6)
    assert float(loss(task, logits(task, 0), logits(task, 1))) > 0.01


def test_padding_has_no_say() -> None:
    student, teacher = logits(SPANS, 0), logits(SPANS, 1)
    expected = loss(SPANS, student, teacher)
    student[1, 3:], teacher[1, 3:] = 9.0, -9.0
    torch.testing.assert_close(loss(SPANS, student, teacher), expected)


def test_a_value_has_a_squared_error() -> None:
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [5.0]])
    assert float(loss(VALUES, student, teacher)) == 5.0


def test_the_two_directions_swap_the_sides() -> None:
    student, teacher = logits(CLASSES, 0), logits(CLASSES, 1)
    forward = loss(CLASSES, student, teacher)
    torch.testing.assert_close(loss(CLASSES, teacher, student, direction="reverse"), forward)
    assert float(loss(CLASSES, student, teacher, direction="reverse")) != pytest.approx(
        float(forward)
    )


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = logits(CLASSES, 0).requires_grad_(), logits(CLASSES, 1).requires_grad_()
    loss(CLASSES, student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None
