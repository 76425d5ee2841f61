"""Bayesian optimization of lengths, against an Optuna study that is asked and told by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from statistics import mean

import optuna
import pytest
from optuna.samplers import TPESampler

from quala.lengths import LengthConfig, constant_drop
from quala.search.bayesian import Bayesian
from quala.search.space import Space
from quala.search.strategy import Acceptance, EvaluatedLengths, SearchSettings, build_strategy

SPACE = Space(4, 64, lower=constant_drop(0.2, layers=4, sequence_length=64))
SHORTEST = SPACE.lowest.lengths[-1]
ENDS = [SPACE.full, SPACE.lowest]
NOTHING: frozenset[LengthConfig] = frozenset()
SETTINGS = SearchSettings(
    seed=1, strategy="bayesian", max_evaluations=150, generations=150, population=10,
    mutations=1, crossovers=0,
)  # fmt: skip

Measure = Callable[[LengthConfig], float]


class Seeded(Random):
    """A generator whose bits are known."""

    def getrandbits(self, k: int, /) -> int:
        return 7


@pytest.fixture
def strategy(cost: Measure) -> Bayesian:
    """The strategy without a lower bound of costs, so that nothing is asked for in vain."""
    return Bayesian(SPACE, Acceptance(cost, cheapest=0.0, dearest=cost(SPACE.full)), SETTINGS)


def candidates(count: int, seed: int = 0) -> list[LengthConfig]:
    rng, box = Random(seed), Space(4, 64, floor=SHORTEST)
    return [box.draw(rng) for _ in range(count)]


def lengths_asked(
    strategy: Bayesian, known: Sequence[EvaluatedLengths], seed: int
) -> tuple[int, ...]:
    proposal = strategy.propose(Random(seed), parents=known, accepted=[], seen=NOTHING)
    assert proposal is not None
    return proposal.lengths.lengths


def asked_by_hand(
    known: Sequence[EvaluatedLengths],
    running: Sequence[LengthConfig],
    *,
    max_cost: float = math.inf,
    min_score: float = 0.0,
) -> list[int]:
    """Return what an ordinary study asks for, its lengths in falling order."""
    study = optuna.create_study(
        directions=["maximize", "minimize"],
        sampler=TPESampler(seed=7, n_startup_trials=10 + len(ENDS)),
    )
    one = optuna.distributions.IntDistribution(SHORTEST, 64)
    layers: dict[str, optuna.distributions.BaseDistribution] = {
        f"length_{layer}": one for layer in (1, 2, 3, 4)
    }
    for lengths in [*(point.lengths for point in known), *running]:
        study.enqueue_trial(dict(zip(layers, lengths.lengths, strict=True)))
    for point in known:
        trial = study.ask(layers)
        trial.set_constraint("too dear", point.cost - max_cost)
        trial.set_constraint("too bad", min_score - point.score)
        trial.set_constraint("given up", 1.0 if point.stopped else 0.0)
        study.tell(trial, [point.score, point.cost])
    for _ in running:
        study.ask(layers)
    return sorted(study.ask(layers).params.values(), reverse=True)


@pytest.fixture
def known(cost: Measure, score: Measure) -> list[EvaluatedLengths]:
    return [
        EvaluatedLengths(lengths, cost(lengths), score(lengths), stopped=place % 5 == 4)
        for place, lengths in enumerate([*ENDS, *candidates(40)])
    ]


@pytest.mark.parametrize("running", [0, 3])
@pytest.mark.parametrize("count", [7, 14, 42])
def test_a_proposal_is_what_an_ordinary_study_asks_for(
    strategy: Bayesian, known: list[EvaluatedLengths], count: int, running: int
) -> None:
    accepted = candidates(running, seed=1)
    found = strategy.propose(Seeded(), parents=known[:count], accepted=accepted, seen=NOTHING)
    assert found is not None
    assert list(found.lengths.lengths) == asked_by_hand(known[:count], accepted)


def test_points_outside_the_limits_are_infeasible(
    strategy: Bayesian, known: list[EvaluatedLengths]
) -> None:
    costs, scores = (sorted(values) for values in zip(*((k.cost, k.score) for k in known)))
    limits = {"max_cost": costs[-8], "min_score": scores[12]}
    accept = replace(strategy.accept, dearest=limits["max_cost"])
    settings = replace(SETTINGS, min_score=limits["min_score"])
    bounded = replace(strategy, accept=accept, settings=settings)
    by_hand = asked_by_hand(known, [], **limits)
    assert by_hand != asked_by_hand(known, [])
    found = bounded.propose(Seeded(), parents=known, accepted=[], seen=NOTHING)
    assert found is not None
    assert list(found.lengths.lengths) == by_hand


def test_no_layer_keeps_less_than_the_cheapest_lengths_do(
    strategy: Bayesian, cost: Measure
) -> None:
    known = [
        EvaluatedLengths(lengths, cost(lengths), -cost(lengths))
        for lengths in [*ENDS, *candidates(30)]
    ]
    shortest = [lengths_asked(strategy, known, seed)[-1] for seed in range(20)]
    assert min(shortest) >= SHORTEST
    assert mean(shortest) < SHORTEST + 8  # all that this score asks for is to be short


def test_a_generation_of_one_sees_all_that_came_before(cost: Measure) -> None:
    settings = replace(SETTINGS, population=3)
    strategy = build_strategy(settings, SPACE, cost)
    known = [EvaluatedLengths(lengths, cost(lengths), 1.0) for lengths in [*ENDS, *candidates(3)]]
    assert settings.generation_size == 1
    assert strategy.parents(known) == known
    assert list(strategy.seeds()) == ENDS
