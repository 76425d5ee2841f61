"""How much each distillation term counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from quala.errors import QualaError, unknown

Direction = Literal["forward", "reverse", "cross_entropy"]


@dataclass(frozen=True)
class DistillWeights:
    """Factors of the terms of one distillation loss; 0 leaves a term out.

    Raises:
        QualaError: for a negative factor, a temperature that is not positive, or no term at all.
    """

    soft: float = 1.0
    """Teacher's answers, see `soft_loss`."""
    hidden: float = 0.0
    """Hidden states, see `hidden_loss`."""
    attention: float = 0.0
    """Attention scores, see `attention_loss`."""
    relation: float = 0.0
    """Self-attention relations, see `relation_loss`."""
    hard: float = 0.0
    """Labels."""
    temperature: float = 1.0
    """Divides both sides' log-scores in the soft term."""
    direction: Direction = "forward"
    """`forward` KL(teacher || student), `reverse` KL(student || teacher), or `cross_entropy`."""

    def __post_init__(self) -> None:
        terms = ("soft", "hidden", "attention", "relation", "hard")
        for name in terms:
            if getattr(self, name) < 0:
                raise QualaError(f"`{name}` weighs {getattr(self, name)}; allowed is 0 or more.")
        if not any(getattr(self, name) for name in terms):
            raise QualaError("All distillation weights are 0; give at least one term a weight.")
        if self.temperature <= 0:
            raise QualaError(f"`temperature` is {self.temperature}; allowed is above 0.")
        if self.direction not in get_args(Direction):
            raise unknown("distillation direction", self.direction, get_args(Direction))
