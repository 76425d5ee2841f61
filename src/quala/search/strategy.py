"""What a search strategy is, the settings that it is made from, and the registry of strategies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, Protocol, get_args

from quala.errors import QualaError, unknown
from quala.lengths import LengthConfig
from quala.plugins import STRATEGIES
from quala.ranges import LARGEST_SEED, MANY, check_ranges, ranged, text
from quala.search.space import Space

Cost = Callable[[LengthConfig], float]
Prior = Literal["none", "additive"]
MOST = 100_000
"""Of evaluations, and of the proposals of a generation; a search of that size takes months."""


@dataclass(kw_only=True)
class SearchSettings:
    """How long to search, by which strategy, and within which limits.

    Raises QualaError for an unknown strategy and for sizes that make no search.
    """

    seed: int = ranged(at_least=0, at_most=LARGEST_SEED)
    strategy: str = text("line", plugins=STRATEGIES)
    """`quala`, `published` (arXiv 2010.07003), `bayesian` (as in arXiv 2111.09645), the name of
    an installed strategy, or the dotted path of a class."""
    max_evaluations: int = ranged(at_least=1, at_most=MOST)
    """The search ends here even if its generations are not over."""
    generations: int = ranged(at_least=0, at_most=MOST)
    population: int = ranged(at_least=0, at_most=MOST)
    """Lengths that the search starts from; for `bayesian` those scored before it has a model."""
    mutations: int = ranged(at_least=0, at_most=MOST)
    """With `crossovers` the size of a generation, all of whose lengths are chosen before any of
    them is scored; only `published` tells the two apart."""
    crossovers: int = ranged(at_least=0, at_most=MOST)
    max_cost: float | None = ranged(None, above=0, at_most=MANY)
    """Budget in GMACs or milliseconds; dearer lengths are not part of the front."""
    min_score: float | None = ranged(None, at_least=-100, at_most=100)
    """Lengths that score less, in percent, are not part of the front."""
    workers: int = ranged(1, identity=False, at_least=1, at_most=64)
    prior: Prior = field(default="none", metadata={"identity": "if set"})
    """What the strategy `quala` believes of lengths before it scores them: `additive` sums what
    single drops and structures lose (NAS-BERT, arXiv 2105.14444), `none` is one score for all."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.prior not in get_args(Prior):
            raise unknown("`prior`", self.prior, get_args(Prior))
        if self.prior != "none" and self.strategy != "quala":
            raise QualaError(
                f"`prior={self.prior}` is for `strategy=quala`, got `{self.strategy}`."
            )
        if self.generation_size < 1:
            raise QualaError(
                "`mutations` and `crossovers` must be at least 1 together, got "
                f"{self.mutations} and {self.crossovers}."
            )

    @property
    def generation_size(self) -> int:
        """Return the proposals of one generation after the first."""
        return self.mutations + self.crossovers

    def evaluations(self, strategy: Strategy) -> int:
        """Return how many lengths the whole search evaluates."""
        planned = len(strategy.seeds()) + self.generations * self.generation_size
        return min(planned, self.max_evaluations)


@dataclass(frozen=True, slots=True)
class EvaluatedLengths:
    """Lengths with their cost and score; the score of `stopped` ones is an estimate."""

    lengths: LengthConfig
    cost: float
    score: float
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Proposal:
    """Lengths to evaluate next, and a word for how they were made, recorded with them."""

    lengths: LengthConfig
    origin: str


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The test that a proposal must pass: a cost within bounds, and lengths not seen before."""

    cost: Cost
    cheapest: float
    dearest: float

    def __call__(self, child: LengthConfig, seen: AbstractSet[LengthConfig]) -> bool:
        """Return whether the child may be evaluated."""
        return child not in seen and self.cheapest <= self.cost(child) <= self.dearest


class Strategy(Protocol):
    """How a search chooses what to evaluate. Implementations keep no state between calls."""

    def __init__(self, space: Space, accept: Acceptance, settings: SearchSettings) -> None:
        """Take the space, the test that proposals must pass, and the settings."""

    def seeds(self) -> tuple[LengthConfig, ...]:
        """Return the distinct lengths of generation 0; the full length is the first."""

    def parents(self, known: Sequence[EvaluatedLengths]) -> list[EvaluatedLengths]:
        """Return those of `known` that a new generation is made from."""

    def propose(
        self,
        rng: Random,
        *,
        parents: Sequence[EvaluatedLengths],
        accepted: Sequence[LengthConfig],
        seen: AbstractSet[LengthConfig],
    ) -> Proposal | None:
        """Return lengths that are not in `seen`, or None when no new ones were found.

        `accepted` are this generation's proposals so far, in order. All randomness comes from
        `rng`, so that a search that was killed goes on as it would have.
        """


def build_strategy(settings: SearchSettings, space: Space, cost: Cost) -> Strategy:
    """Return the strategy that the settings name.

    Raises QualaError as `STRATEGIES.find`.
    """
    dearest = cost(space.full)
    if settings.max_cost is not None:
        dearest = min(dearest, settings.max_cost)
    accept = Acceptance(cost, cheapest=cost(space.lowest), dearest=dearest)
    kind: Any = STRATEGIES.find(settings.strategy)
    made: Strategy = kind(space, accept, settings)
    return made


def frontier(known: Sequence[EvaluatedLengths]) -> list[EvaluatedLengths]:
    """Return the non-dominated fully evaluated lengths, cheapest first."""
    front: list[EvaluatedLengths] = []
    for point in sorted(known, key=lambda k: (k.cost, -k.score, k.lengths.lengths)):
        if not point.stopped and (not front or point.score > front[-1].score):
            front.append(point)
    return front


def distinct(candidates: Sequence[LengthConfig]) -> tuple[LengthConfig, ...]:
    """Return the candidates without repetitions, in order."""
    return tuple(dict.fromkeys(candidates))
