from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from quala.compress.loss_weights import Direction
from quala.compress.losses import soft_loss
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
    got = soft_loss(student, teacher, temperature=temperature)
    assert torch.allclose(got, expected * temperature**2)


def test_reverse_is_forward_with_the_sides_swapped(student: Tensor, teacher: Tensor) -> None:
    swapped = soft_loss(teacher, student, direction="forward")
    assert torch.allclose(soft_loss(student, teacher, direction="reverse"), swapped)


def test_cross_entropy_equals_torch(student: Tensor, teacher: Tensor) -> None:
    expected = functional.cross_entropy(student.flatten(0, 1), teacher.softmax(-1).flatten(0, 1))
    assert torch.allclose(soft_loss(student, teacher, direction="cross_entropy"), expected)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_an_equal_student_costs_nothing(teacher: Tensor, direction: Direction) -> None:
    assert soft_loss(_padded(teacher, 3), _padded(teacher, 3), direction=direction) == 0


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_padding_changes_neither_loss_nor_gradient(
    student: Tensor, teacher: Tensor, direction: Direction, temperature: float
) -> None:
    student.requires_grad_()
    plain = soft_loss(student, teacher, temperature=temperature, direction=direction)
    padded = soft_loss(
        _padded(student, 377), _padded(teacher, 377), temperature=temperature, direction=direction
    )
    assert torch.allclose(padded, plain, rtol=1e-5)
    expected = torch.autograd.grad(plain, student)[0]
    assert torch.allclose(torch.autograd.grad(padded, student)[0], expected, atol=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_padding_receives_a_gradient_of_exactly_zero(direction: Direction) -> None:
    student = _padded(_scores(0, 2, 1, 3), 2).requires_grad_()
    soft_loss(student, _padded(_scores(1, 2, 1, 3), 2), direction=direction).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert (student.grad[..., 3:] == 0).all()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_an_answer_that_is_all_padding_adds_nothing(direction: Direction) -> None:
    scores = torch.full((1, 1, 4), LOWEST, requires_grad=True)
    loss = soft_loss(scores, scores.detach(), direction=direction)
    loss.backward()
    assert loss == 0
    assert scores.grad is not None
    assert (scores.grad == 0).all()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_loss_of_an_example_does_not_depend_on_the_batch(
    student: Tensor, teacher: Tensor, direction: Direction
) -> None:
    one = soft_loss(student[:1], teacher[:1], direction=direction)
    many = soft_loss(
        student[:1].expand(32, -1, -1), teacher[:1].expand(32, -1, -1), direction=direction
    )
    assert torch.allclose(one, many)


def test_the_teacher_receives_no_gradient(student: Tensor, teacher: Tensor) -> None:
    teacher.requires_grad_()
    soft_loss(student.requires_grad_(), teacher, direction="reverse").backward()
    assert teacher.grad is None


def test_unequal_shapes_are_refused(student: Tensor, teacher: Tensor) -> None:
    with pytest.raises(QualaError, match="equal shapes"):
        soft_loss(student[:, :1], teacher)


def test_a_temperature_of_zero_is_refused(student: Tensor, teacher: Tensor) -> None:
    with pytest.raises(QualaError, match="temperature"):
        soft_loss(student, teacher, temperature=0)
