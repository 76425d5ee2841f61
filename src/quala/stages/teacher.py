"""What a teacher says of a batch: a model in the loop, or one whose words were stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from quala.compress.distill.knowledge import KeptState
    from quala.data.batch import Batch
    from quala.models.adaptive import LengthAdaptiveModel
    from quala.models.state import Trace


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """The answers of a batch, and how the teacher got there: in full, or what was kept of it."""

    logits: Tensor  # (B, n, outputs) or (B, outputs)
    trace: Trace | None = None
    kept: tuple[tuple[int, KeptState], ...] = ()
    """The number of a student's state, and what it follows."""


class Teacher(Protocol):
    """Something that a student is taught by."""

    @property
    def width(self) -> int:
        """The width of the hidden states that it teaches."""

    @property
    def figures(self) -> Mapping[str, float]:
        """What its preparation cost, for the stage's final metrics."""

    def to(self, device: torch.device) -> None:
        """Say everything on a device from now on."""

    def say(self, batch: Batch, *, traced: bool) -> Said:
        """Return the answers to a batch and, if `traced`, the states behind them."""


class LiveTeacher:
    """A frozen model that answers every batch anew. It is no module: no checkpoint holds it."""

    def __init__(self, model: LengthAdaptiveModel):
        self.model = model.eval().requires_grad_(False)
        self.figures: Mapping[str, float] = {}

    @property
    def width(self) -> int:
        return self.model.arch.hidden

    def to(self, device: torch.device) -> None:
        self.model.to(device)

    @torch.no_grad()
    def say(self, batch: Batch, *, traced: bool) -> Said:
        if not traced:
            return Said(self.model(batch))
        trace = self.model.trace(batch)
        return Said(trace.logits, trace=trace)
