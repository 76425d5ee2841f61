"""The search over lengths and structures together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from quala.lengths import LengthConfig, Units, constant_drop, elastic_layers, layers_name
from quala.search.evaluate import Evaluation
from quala.search.result import SearchResult
from quala.search.space import STRUCTURE, Space, restructure
from quala.search.strategy import SearchSettings, build_strategy
from quala.search.study import identity_of, run_search

WHOLE = (Units(12, 96),) * 4
OWN = tuple(elastic_layers(WHOLE, [1.0, 0.5], [1.0, 0.5])[1:])
SPACE = Space(4, 64, structures=OWN, units=WHOLE)
FULL = SPACE.full


def cost(config: LengthConfig) -> float:
    shares = SPACE.shares(config.layers)
    return sum(length * share for length, share in zip(config.lengths, shares)) / 64


def score(config: LengthConfig) -> float:
    """Narrow layers lose little, dropped tokens much: the best cheap point is a narrow one."""
    lost = sum((1 - length / 64) ** 2 for length in config.lengths)
    thin = sum(1 - share for share in SPACE.shares(config.layers))
    return 90 - 12 * lost - 2 * thin


class Known:
    def cost(self, config: LengthConfig) -> float:
        return cost(config)

    def evaluate(self, configs: Sequence[LengthConfig]) -> list[Evaluation]:
        return [Evaluation(c, cost(c), score(c), examples=(score(c),)) for c in configs]

    def recall(self, known: Sequence[Evaluation]) -> None:
        pass


def settings(strategy: str) -> SearchSettings:
    return SearchSettings(
        seed=0, strategy=strategy, max_evaluations=60, generations=8, population=12,
        mutations=4, crossovers=4,
    )  # fmt: skip


@pytest.mark.parametrize("strategy", ["bayesian", "published", "quala"])
def test_every_strategy_finds_narrow_points_of_the_front(strategy: str, tmp_path: Path) -> None:
    found = run_search(Known(), SPACE, settings(strategy), tmp_path)
    cheap = [point for point in found.front if point.cost < 2.2]
    assert any(point.lengths.layers for point in cheap)
    alone = run_search(Known(), Space(4, 64), settings(strategy), tmp_path / "alone")
    best = max(point.score for point in alone.front if point.cost < 2.2)
    assert max(point.score for point in cheap) > best + 1
    assert found.full is not None
    assert found.full.lengths.is_full
    again = SearchResult.from_json(found.to_json())
    assert again == found
    assert run_search(Known(), SPACE, settings(strategy), tmp_path) == found  # from its study


def test_a_search_without_structures_is_kept_as_before() -> None:
    space = identity_of(Space(4, 64), settings("quala"))["space"]
    assert space.keys() == {"layers", "sequence_length", "floor", "step", "lower"}
    assert STRUCTURE not in Space(4, 64).distributions()
    result = run_search_of_two()
    assert '"layers": [' not in result


def run_search_of_two() -> str:
    point = {"cost": 1.0, "score": 2.0, "generation": 0, "origin": "seed", "examples": 1}
    one = {"lengths": {"lengths": [64, 64], "sequence_length": 64}, **point}
    facts = {"candidates": [one], "cheapest": 0.0, "dearest": 1.0}
    return SearchResult.from_json(json.dumps(facts)).to_json()


def test_a_structure_is_a_parameter_of_a_trial() -> None:
    for layers in ((), *OWN):
        config = SPACE.repair([60, 50, 40, 30], layers)
        assert SPACE.from_params(SPACE.to_params(config)) == config
    names = SPACE.distributions()[STRUCTURE]
    assert names.choices == ("all", *map(layers_name, OWN))  # type: ignore[attr-defined]
    lengths_alone = {f"length_{layer}": 64 for layer in range(1, 5)}
    assert SPACE.from_params(lengths_alone) is None


def test_operators_stay_in_the_space() -> None:
    rng, config = Random(0), SPACE.draw(Random(3))
    for _ in range(50):
        config = restructure(SPACE.draw(rng), rng, space=SPACE)
        assert config.layers in ((), *OWN)
    strategy = build_strategy(settings("quala"), SPACE, cost)
    assert {one.layers for one in strategy.seeds()} == {(), *OWN}
    assert strategy.seeds()[0].is_full


def test_a_layer_that_the_least_leaves_out_bounds_no_other_structure() -> None:
    lower = constant_drop(0.3, layers=4, sequence_length=64)
    space = Space(4, 64, lower=lower, structures=OWN, units=WHOLE)
    assert None in OWN[-1][-1:]  # the last layer
    assert space.lowest.lengths[-1] > lower.lengths[-1]
    assert space.shortest == lower


@pytest.mark.parametrize("strategy", ["bayesian", "published", "quala"])
def test_structures_alone_are_all_scored(strategy: str, tmp_path: Path) -> None:
    space = Space(4, 64, floor=64, lower=FULL, structures=OWN, units=WHOLE)
    found = run_search(Known(), space, settings(strategy), tmp_path)
    assert {one.lengths for one in found.candidates} == {FULL.of(one) for one in ((), *OWN)}
    assert len(found.candidates) == len(OWN) + 1


@pytest.mark.parametrize("strategy", ["bayesian", "published", "quala"])
def test_a_killed_search_goes_on_as_it_would_have(strategy: str, tmp_path: Path) -> None:
    class Killed(Known):
        def evaluate(self, configs: Sequence[LengthConfig]) -> list[Evaluation]:
            if any(config in seen for config in configs):
                raise AssertionError("scored twice")
            if len(seen) > 16:
                raise KeyboardInterrupt
            seen.update(configs)
            return super().evaluate(configs)

    seen: set[LengthConfig] = set()
    with pytest.raises(KeyboardInterrupt):
        run_search(Killed(), SPACE, settings(strategy), tmp_path / "killed")
    assert any(one.layers for one in seen)
    went_on = run_search(Known(), SPACE, settings(strategy), tmp_path / "killed")
    assert went_on == run_search(Known(), SPACE, settings(strategy), tmp_path / "whole")
