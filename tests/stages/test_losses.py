"""Soft labels, whatever the task."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from quala.compress.losses import task_soft_loss
from quala.data.features import Batch
from quala.data.task import Task

SPANS = Task("question-answering", 2, "f1")
CLASSES = Task("classification", 3, "accuracy")
VALUES = Task("regression", 1, "pearson_spearman")


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
    return task_soft_loss(task, student, teacher, batch(), **options)


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
