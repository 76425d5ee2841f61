from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from quala.lengths import LengthConfig, constant_drop
from quala.search.space import Space
from quala.search.strategy import (
    EvaluatedLengths,
    SearchSettings,
    Strategy,
    build_strategy,
    frontier,
)

Cost = Callable[[LengthConfig], float]
LOWER = constant_drop(0.2, layers=6, sequence_length=128)
SIZES: dict[str, Any] = {
    "seed": 1, "strategy": "quala", "max_evaluations": 2000, "generations": 16,
    "population": 20, "mutations": 6, "crossovers": 4,
}  # fmt: skip


def settings(**changes: Any) -> SearchSettings:
    return SearchSettings(**{**SIZES, **changes})


def strategy_named(name: str, space: Space, cost: Cost) -> Strategy:
    return build_strategy(settings(strategy=name), space, cost)


def search(
    strategy: Strategy,
    known: list[EvaluatedLengths],
    evaluate: Callable[[LengthConfig], EvaluatedLengths],
    count: int,
) -> list[EvaluatedLengths]:
    """Run a strategy without a study."""
    known = known or [evaluate(lengths) for lengths in strategy.seeds()]
    while len(known) < count:
        parents, accepted = strategy.parents(known), []
        for index in range(settings().generation_size):
            seen = {point.lengths for point in known} | set(accepted)
            proposal = strategy.propose(
                Random(len(known) + index), parents=parents, accepted=accepted, seen=seen
            )
            assert proposal is not None
            accepted.append(proposal.lengths)
        known = known + [evaluate(lengths) for lengths in accepted]
    return known


def area(known: list[EvaluatedLengths], dearest: float) -> float:
    front = frontier(known)
    ends = [point.cost for point in front[1:]] + [dearest]
    return sum(point.score * (end - point.cost) for point, end in zip(front, ends))


@pytest.mark.parametrize("name", ["published", "quala", "bayesian"])
def test_seeds_hold_both_ends(name: str, cost: Cost) -> None:
    space = Space(6, 128, lower=LOWER)
    assert strategy_named(name, space, cost).seeds()[:2] == (space.full, space.lowest)


@pytest.mark.parametrize("name", ["published", "quala", "bayesian"])
def test_proposals_are_new_and_within_the_bounds(
    name: str, cost: Cost, score: Callable[[LengthConfig], float]
) -> None:
    space = Space(6, 128, lower=LOWER)
    strategy = strategy_named(name, space, cost)
    known = search(strategy, [], lambda g: EvaluatedLengths(g, cost(g), score(g)), 60)
    assert len({point.lengths for point in known}) == len(known)
    assert all(cost(LOWER) <= point.cost <= cost(space.full) for point in known)


@pytest.mark.parametrize("name", ["published", "quala", "bayesian"])
def test_an_exhausted_space_gives_no_proposal(name: str, cost: Cost) -> None:
    space = Space(2, 4)
    everything = frozenset(LengthConfig((a, b), 4) for a in range(2, 5) for b in range(2, a + 1))
    known = [
        EvaluatedLengths(lengths, cost(lengths), 1.0) for lengths in sorted(everything, key=str)
    ]
    strategy = strategy_named(name, space, cost)
    assert strategy.propose(Random(0), parents=known, accepted=[], seen=everything) is None


def test_published_generations_mutate_then_cross(cost: Cost) -> None:
    sizes = settings(strategy="published", mutations=1, crossovers=1)
    strategy = build_strategy(sizes, Space(6, 128), cost)
    known = [
        EvaluatedLengths(lengths, cost(lengths), cost(lengths)) for lengths in strategy.seeds()
    ]
    first = strategy.propose(Random(0), parents=known, accepted=[], seen=frozenset())
    assert first is not None
    second = strategy.propose(Random(0), parents=known, accepted=[first.lengths], seen=frozenset())
    assert second is not None
    assert (first.origin, second.origin) == ("mutation", "crossover")


def test_the_frontier_leaves_stopped_and_dominated_candidates_out() -> None:
    candidates = [LengthConfig((length,), 16) for length in (4, 6, 8, 10)]
    known = [
        EvaluatedLengths(candidates[0], 1.0, 5.0),
        EvaluatedLengths(candidates[1], 2.0, 9.0, stopped=True),
        EvaluatedLengths(candidates[2], 3.0, 4.0),
        EvaluatedLengths(candidates[3], 4.0, 6.0),
    ]
    assert [point.cost for point in frontier(known)] == [1.0, 4.0]


@pytest.mark.parametrize("seed", [1, 2])
def test_ours_needs_a_tenth_of_the_published_evaluations(
    seed: int, cost: Cost, score: Callable[[LengthConfig], float]
) -> None:
    space = Space(6, 128)
    evaluate = lambda lengths: EvaluatedLengths(lengths, cost(lengths), score(lengths))  # noqa: E731
    published = search(strategy_named("published", space, cost), [], evaluate, 20 * 60)
    ours = search(strategy_named("quala", space, cost), [], evaluate, 2 * 60)
    assert area(ours, cost(space.full)) >= area(published, cost(space.full))
