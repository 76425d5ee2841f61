"""The evolutionary search of Length-Adaptive Transformer (arXiv 2010.07003, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from random import Random

from quala.lengths import LengthConfig
from quala.search.space import Space, average, constant_rates, mutate
from quala.search.strategy import Acceptance, Known, Proposal, distinct, frontier

_TRIES = 2000


@dataclass(frozen=True, slots=True)
class Published:
    """Bounded mutation and mean crossover of parents drawn uniformly.

    Parents are the frontier and the genes accepted so far in the generation. An exhausted space
    ends the generation after a bounded number of tries, where the published loop would spin.
    """

    space: Space
    accept: Acceptance
    population: int = 20
    mutations: int = 30
    crossovers: int = 30
    probability: float = 0.5

    @property
    def generation_size(self) -> int:
        """Return the proposals of one generation after the seeds."""
        return self.mutations + self.crossovers

    def seeds(self) -> tuple[LengthConfig, ...]:
        """Return both ends and constant-rate genes between them."""
        ends = [self.space.full, self.space.lowest]
        return distinct([*ends, *constant_rates(self.space, self.population)])

    def parents(self, known: Sequence[Known]) -> list[Known]:
        """Return the frontier."""
        return frontier(known)

    def propose(
        self,
        rng: Random,
        *,
        parents: Sequence[Known],
        accepted: Sequence[LengthConfig],
        seen: AbstractSet[LengthConfig],
    ) -> Proposal | None:
        """Return a mutation for the first slots of a generation, then a crossover."""
        pool = [*(parent.lengths for parent in parents), *accepted]
        mutating = len(accepted) < self.mutations
        for attempt in range(2 * _TRIES):
            crossing = mutating == (attempt >= _TRIES)
            if crossing and len(pool) < 2:
                continue
            child = self._cross(pool, rng) if crossing else self._mutate(pool, rng)
            if self.accept(child, seen):
                return Proposal(child, "crossover" if crossing else "mutation")
        return None

    def _mutate(self, pool: Sequence[LengthConfig], rng: Random) -> LengthConfig:
        return mutate(rng.choice(pool), rng, space=self.space, probability=self.probability)

    def _cross(self, pool: Sequence[LengthConfig], rng: Random) -> LengthConfig:
        first, second = rng.sample(pool, k=2)
        return average(first, second, space=self.space)
