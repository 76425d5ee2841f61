"""The teacher's answers as labels (arXiv 1503.02531)."""

from __future__ import annotations

import torch
from torch import Tensor

from quala.compress.distill.weights import Direction
from quala.errors import QualaError, unknown


def soft_loss(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, direction: Direction = "forward"
) -> Tensor:
    """Return the divergence of two stacks of log-scores (B, D, K): sum over K, mean over B and D.

    Scores at `torch.finfo(dtype).min`, on either side, are padding and add exactly 0. Multiplied
    by temperature^2, so that gradients keep their size. The teacher receives no gradient.

    Raises:
        QualaError: for shapes that differ or a temperature that is not positive.
    """
    if student.shape != teacher.shape:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise QualaError(f"Soft labels need equal shapes, got {shapes}.")
    if temperature <= 0:
        raise QualaError(f"`temperature` is {temperature}; allowed is above 0.")
    real = _real(student) & _real(teacher)  # (B, D, K)
    log_s = _log_probabilities(student, real, temperature)
    log_t = _log_probabilities(teacher.detach(), real, temperature)
    if direction == "forward":
        terms = log_t.exp() * (log_t - log_s)
    elif direction == "reverse":
        terms = log_s.exp() * (log_s - log_t)
    elif direction == "cross_entropy":
        terms = -log_t.exp() * log_s
    else:
        raise unknown("distillation direction", direction, ("forward", "reverse", "cross_entropy"))
    return terms.masked_fill(~real, 0).sum(dim=-1).mean() * temperature**2


def _real(scores: Tensor) -> Tensor:
    return scores > torch.finfo(scores.dtype).min / 2


def _log_probabilities(scores: Tensor, real: Tensor, temperature: float) -> Tensor:
    # Half the lowest value: far below every score, and no difference of two of them overflows.
    lowest = torch.finfo(torch.float32).min / 2
    scores = scores.float().masked_fill(~real, 0) / temperature
    log_p = scores.masked_fill(~real, lowest).log_softmax(dim=-1)
    return log_p.masked_fill(~real, lowest)
