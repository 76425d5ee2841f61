"""The settings of a search, and the strategy that they name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from quala.errors import QualaError, unknown
from quala.search.bayesian import Bayesian
from quala.search.guided import Guided
from quala.search.published import Published
from quala.search.space import Space
from quala.search.strategy import Acceptance, Cost, Strategy

StrategyName = Literal["quala", "published", "bayesian"]


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How long to search and by which strategy.

    A generation has `mutations + crossovers` genes; only `published` tells the two apart. The
    first `population` genes of `bayesian` after both ends are random. The search ends after
    `generations`, or after `max_evaluations` if that comes first. Points above `max_cost` are not
    evaluated, points below `min_score` are on no front. Raises QualaError for sizes that make no
    search.
    """

    strategy: StrategyName = "quala"
    generations: int = 16
    population: int = 20
    mutations: int = 6
    crossovers: int = 4
    mutation_probability: float = 0.5
    max_evaluations: int | None = None
    max_cost: float | None = None
    min_score: float | None = None
    seed: int = 1
    workers: int = 1

    def __post_init__(self) -> None:
        if self.strategy not in get_args(StrategyName):
            raise unknown("search strategy", self.strategy, get_args(StrategyName))
        if self.generations < 0 or self.population < 0 or self.workers < 1:
            raise QualaError(
                "`generations` and `population` must not be negative and `workers` at least 1, "
                f"got {self.generations}, {self.population}, {self.workers}."
            )
        if min(self.mutations, self.crossovers) < 0 or self.mutations + self.crossovers < 1:
            raise QualaError(
                "`mutations` and `crossovers` must add up to at least 1, "
                f"got {self.mutations} and {self.crossovers}."
            )
        if self.max_evaluations is not None and self.max_evaluations < 1:
            raise QualaError(f"`max_evaluations` must be positive, got {self.max_evaluations}.")

    def evaluations(self, strategy: Strategy) -> int:
        """Return how many genes the whole search evaluates."""
        planned = len(strategy.seeds()) + self.generations * strategy.generation_size
        return planned if self.max_evaluations is None else min(planned, self.max_evaluations)


def build_strategy(settings: SearchSettings, space: Space, cost: Cost) -> Strategy:
    """Return the strategy that the settings name."""
    dearest = cost(space.full)
    if settings.max_cost is not None:
        dearest = min(dearest, settings.max_cost)
    accept = Acceptance(cost, cheapest=cost(space.lowest), dearest=dearest)
    size = settings.mutations + settings.crossovers
    if settings.strategy == "quala":
        return Guided(space, accept, population=settings.population, generation_size=size)
    if settings.strategy == "bayesian":
        return Bayesian(
            space,
            accept,
            startup=settings.population,
            generation_size=size,
            min_score=settings.min_score,
        )
    return Published(
        space,
        accept,
        population=settings.population,
        mutations=settings.mutations,
        crossovers=settings.crossovers,
        probability=settings.mutation_probability,
    )
