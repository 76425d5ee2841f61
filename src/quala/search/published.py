"""The evolutionary search of Length-Adaptive Transformer (arXiv 2010.07003, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from random import Random

from quala.lengths import LengthConfig
from quala.search.space import Space, average, constant_rates, mutate, restructure
from quala.search.strategy import (
    Acceptance,
    EvaluatedLengths,
    Proposal,
    SearchSettings,
    distinct,
    frontier,
)

_TRIES = 2000
"""Children that are refused before mutation or crossover gives up; chosen by hand, not tuned."""
MUTATION_PROBABILITY = 0.5
"""Share of the layers that a mutation redraws, as published."""


@dataclass(frozen=True, slots=True)
class Published:
    """Bounded mutation and mean crossover of parents drawn uniformly.

    Parents are the frontier and the lengths accepted so far in the generation. An exhausted
    space ends the generation after a bounded number of tries; the published loop would not end.
    """

    space: Space
    accept: Acceptance
    settings: SearchSettings

    def seeds(self) -> tuple[LengthConfig, ...]:
        """Return both ends and constant-rate lengths between them."""
        ends = [self.space.full, self.space.lowest]
        rates = constant_rates(self.space, self.settings.population)
        own = ((), *self.space.structures)  # each structure at some of the rates
        return distinct([*ends, *(r.of(own[n % len(own)]) for n, r in enumerate(rates))])

    def parents(self, known: Sequence[EvaluatedLengths]) -> list[EvaluatedLengths]:
        """Return the frontier."""
        return frontier(known)

    def propose(
        self,
        rng: Random,
        *,
        parents: Sequence[EvaluatedLengths],
        accepted: Sequence[LengthConfig],
        seen: AbstractSet[LengthConfig],
    ) -> Proposal | None:
        """Return a mutation for the first slots of a generation, then a crossover."""
        pool = [*(parent.lengths for parent in parents), *accepted]
        mutating = len(accepted) < self.settings.mutations
        for attempt in range(2 * _TRIES):
            crossing = mutating == (attempt >= _TRIES)
            if crossing and len(pool) < 2:
                continue
            if crossing:
                first, second = rng.sample(pool, k=2)
                child = average(first, second, space=self.space)
            else:
                parent = rng.choice(pool)
                child = mutate(parent, rng, space=self.space, probability=MUTATION_PROBABILITY)
            child = restructure(child, rng, space=self.space)
            if self.accept(child, seen):
                return Proposal(child, "crossover" if crossing else "mutation")
        return None
