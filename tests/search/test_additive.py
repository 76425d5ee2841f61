"""The table of single losses, against sums by hand; the search that begins with it."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from scipy.stats import spearmanr

from quala.errors import QualaError
from quala.lengths import LengthConfig, Units
from quala.search.additive import AdditiveTable
from quala.search.space import Space
from quala.search.strategy import EvaluatedLengths, SearchSettings
from quala.search.study import run_search

HALF = (Units(2, 8),) * 3


def known(*lengths: int, score: float, layers: Any = (), stopped: bool = False) -> Any:
    return EvaluatedLengths(LengthConfig(lengths, 100).of(layers), 1.0, score, stopped)


TABLE = AdditiveTable.of(
    [
        known(100, 100, 100, score=90.0),
        known(50, 50, 50, score=80.0),  # drops at layer 0 alone
        known(100, 50, 50, score=86.0),
        known(100, 20, 20, score=87.0),  # noise: losses rise all the same
        known(100, 100, 40, score=89.0),
        known(100, 100, 100, score=85.0, layers=HALF),
        known(50, 50, 20, score=10.0),  # two drops: not in the table
        known(100, 100, 10, score=3.0, stopped=True),  # an estimate
    ]
)


def test_losses_of_single_choices_add_up() -> None:
    assert TABLE is not None
    score = {
        (100, 100, 100): 90.0,
        (75, 75, 75): 90 - 5.0,  # half of the way to 50
        (25, 25, 25): 90 - 15.0,  # the slope goes on
        (100, 20, 20): 90 - 4.0,
        (50, 20, 20): 90 - 10.0 - (4.0 - 4.0),
        (75, 50, 50): 90 - 5.0 - (4.0 - 2.0),
        (75, 75, 40): 90 - 5.0 - (1.0 - 25 / 60),
    }
    for lengths, wanted in score.items():
        assert TABLE.score(LengthConfig(lengths, 100)) == pytest.approx(wanted)
    narrow = LengthConfig((75, 75, 75), 100).of(HALF)
    assert TABLE.score(narrow) == pytest.approx(90 - 5.0 - 5.0)
    assert AdditiveTable.of([known(50, 50, 50, score=1.0)]) is None


def settings(**options: Any) -> SearchSettings:
    return SearchSettings(
        **{
            "seed": 0, "strategy": "quala", "max_evaluations": 40, "generations": 4,
            "population": 20, "mutations": 5, "crossovers": 5, **options,
        }
    )  # fmt: skip


def test_a_search_with_the_prior_goes_on_from_its_study(fake: Any, tmp_path: Path) -> None:
    space = Space(6, 128, step=8)
    plain = run_search(fake(), space, settings(), tmp_path / "plain")
    found = run_search(fake(), space, settings(prior="additive"), tmp_path / "prior")
    assert found.candidates[:22] == plain.candidates[:22]  # the seeds know nothing yet
    assert found.candidates != plain.candidates
    with pytest.raises(KeyboardInterrupt):
        run_search(fake(fail_after=30), space, settings(prior="additive"), tmp_path / "killed")
    again = run_search(fake(), space, settings(prior="additive"), tmp_path / "killed")
    assert again == found


def test_the_table_ranks_what_it_has_not_seen(score: Any) -> None:
    space = Space(6, 128, step=8)
    singles = [
        space.repair([128] * (6 - last) + [keep * 128] * last)
        for keep in (0.2, 0.5, 0.75)
        for last in range(1, 7)
    ]
    table = AdditiveTable.of(
        [EvaluatedLengths(one, 1.0, score(one)) for one in (space.full, *singles)]
    )
    assert table is not None
    rng = Random(0)
    others = [space.draw(rng) for _ in range(60)]
    assert spearmanr(table.scores(others), [score(one) for one in others]).statistic > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": "additive", "strategy": "published"}, "is for `strategy=quala`"),
        ({"prior": "table"}, "Unknown `prior`"),
    ],
)
def test_other_priors_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(QualaError, match=message):
        settings(**options)
