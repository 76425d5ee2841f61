"""How far a student's answers are from a teacher's, whatever the task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from quala.compress.distill.soft_labels import soft_loss
from quala.data.task import Task, distributions

if TYPE_CHECKING:
    from torch import Tensor

    from quala.compress.distill.weights import Direction
    from quala.data.batch import Batch


def task_soft_loss(
    task: Task,
    student: Tensor,
    teacher: Tensor,
    batch: Batch,
    *,
    direction: Direction,
    temperature: float,
) -> Tensor:
    """Return the mean divergence over examples and answers; squared error for regression."""
    if task.kind == "regression":
        return functional.mse_loss(student.float(), teacher.float())
    mask = batch["attention_mask"]
    return soft_loss(
        distributions(task, student, mask).float(),
        distributions(task, teacher, mask).float(),
        direction=direction,
        temperature=temperature,
    )
