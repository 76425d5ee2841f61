"""What the search asks of an evaluator, and what it gets back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from quala.lengths import LengthConfig
from quala.search.racing import standard_error
from quala.search.result import Candidate


@dataclass(frozen=True, slots=True)
class Scored:
    """A gene with its score; `examples` are the scores of the examples seen, in their order.

    A `stopped` gene was given up early: its score is an estimate and it is on no front.
    """

    lengths: LengthConfig
    cost: float
    score: float
    stopped: bool = False
    examples: tuple[float, ...] = ()

    def difference_error(self, other: Scored) -> float | None:
        """Return the standard error of the difference of two scores on the same examples.

        None where fewer than two were seen.
        """
        count = min(len(self.examples), len(other.examples))
        if count < 2:
            return None
        apart = np.subtract(self.examples[:count], other.examples[:count])
        return float(standard_error(apart))


class Evaluator(Protocol):
    """Scores length configurations. The cost is known before the score."""

    def cost(self, lengths: LengthConfig) -> float:
        """Return the cost of a gene (MACs, or milliseconds)."""
        ...

    def evaluate(self, configs: Sequence[LengthConfig]) -> list[Scored]:
        """Score genes together."""
        ...

    def recall(self, scored: Sequence[Scored]) -> None:
        """Learn what was scored before a restart, or by another worker."""
        ...


EvaluatorFactory = Callable[[], Evaluator]
OnCandidate = Callable[[Candidate], None]
