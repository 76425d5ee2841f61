"""What a search strategy is: seeds, the choice of parents, and one proposal at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol

from quala.lengths import LengthConfig

Cost = Callable[[LengthConfig], float]
Origin = Literal["seed", "mutation", "crossover", "guided", "bayesian"]


@dataclass(frozen=True, slots=True)
class Known:
    """An evaluated gene; the score of a `stopped` one is an estimate."""

    lengths: LengthConfig
    cost: float
    score: float
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Proposal:
    """A gene to evaluate next, and the operator it comes from."""

    lengths: LengthConfig
    origin: Origin


class Strategy(Protocol):
    """How a search chooses what to evaluate. Implementations keep no state between calls."""

    @property
    def generation_size(self) -> int:
        """Return the proposals of one generation after the seeds."""
        ...

    def seeds(self) -> tuple[LengthConfig, ...]:
        """Return the distinct genes of generation 0; the full length is the first."""
        ...

    def parents(self, known: Sequence[Known]) -> list[Known]:
        """Return what a new generation is made from."""
        ...

    def propose(
        self,
        rng: Random,
        *,
        parents: Sequence[Known],
        accepted: Sequence[LengthConfig],
        seen: AbstractSet[LengthConfig],
    ) -> Proposal | None:
        """Return a gene that is not in `seen`, or None when no new one was found.

        `accepted` are this generation's proposals so far, in order.
        """
        ...


def frontier(known: Sequence[Known]) -> list[Known]:
    """Return the non-dominated fully evaluated genes, cheapest first."""
    front: list[Known] = []
    for point in sorted(known, key=lambda k: (k.cost, -k.score, k.lengths.lengths)):
        if not point.stopped and (not front or point.score > front[-1].score):
            front.append(point)
    return front


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The test that a child must pass: a cost within bounds, and lengths not seen before."""

    cost: Cost
    cheapest: float
    dearest: float

    def __call__(self, child: LengthConfig, seen: AbstractSet[LengthConfig]) -> bool:
        """Say whether the child may be evaluated."""
        return child not in seen and self.cheapest <= self.cost(child) <= self.dearest


def distinct(genes: Sequence[LengthConfig]) -> tuple[LengthConfig, ...]:
    """Return the genes without repetitions, in order."""
    return tuple(dict.fromkeys(genes))
