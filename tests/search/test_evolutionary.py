"""The sampler for any study: what it asks for, whatever the space, the storage or the stop."""

from __future__ import annotations

import signal
import subprocess
import sys
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from quala.errors import QualaError
from quala.search import EvolutionarySampler
from quala.search.evolutionary import CHOSEN

NAMES = ["first", "second", "third"]
SPACE: dict[str, BaseDistribution] = dict.fromkeys(NAMES, IntDistribution(4, 32, step=4))
SIZE = 120
"""Non-increasing triples of eight values."""


def sample(seed: int = 1, **changes: Any) -> EvolutionarySampler:
    options: dict[str, Any] = {"non_increasing": [NAMES], "population_size": 6}
    return EvolutionarySampler(SPACE, **{**options, **changes}, seed=seed)


def opened(sampler: Any, storage: Any = None, count: int = 2) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = ["maximize", "minimize", "maximize"][:count]
    return optuna.create_study(
        study_name="mine", storage=storage, sampler=sampler, directions=directions,
        load_if_exists=True,
    )  # fmt: skip


def journal(folder: Path) -> optuna.storages.JournalStorage:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
    return optuna.storages.JournalStorage(backend)


def score(trial: optuna.Trial) -> tuple[float, float]:
    first, second, third = (trial.suggest_int(name, 4, 32, step=4) for name in NAMES)
    return -((32 - first) ** 2) - (20 - second) ** 2 / 10, first + second + third


def asked(study: optuna.Study) -> list[tuple[Any, ...]]:
    done = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    return [tuple(trial.params[name] for name in sorted(trial.params)) for trial in done]


@st.composite
def spaces(draw: Any) -> tuple[dict[str, BaseDistribution], list[list[str]]]:
    """A few integers with ranges and steps of their own, and a group of some, in any order."""
    space: dict[str, BaseDistribution] = {}
    for place in range(draw(st.integers(1, 5))):
        low, steps, step = (draw(st.integers(*ends)) for ends in ((-5, 5), (0, 9), (1, 4)))
        space[f"p{place}"] = IntDistribution(low, low + steps * step, step=step)
    space["kind"] = CategoricalDistribution(["a", None, 3])
    if draw(st.booleans()):
        space["rate"] = FloatDistribution(1e-3, 1.0, log=draw(st.booleans()))
    numbers = [name for name in space if name != "kind"]
    return space, [draw(st.permutations(numbers))[: draw(st.integers(0, 4))]]


@given(spaces(), st.integers(0, 99), st.sampled_from([1, 2, 3]))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_bounds_steps_and_order_always_hold_and_nothing_comes_twice(
    made: tuple[dict[str, BaseDistribution], list[list[str]]], seed: int, count: int
) -> None:
    space, groups = made
    try:
        sampler = EvolutionarySampler(space, non_increasing=groups, population_size=4, seed=seed)
    except QualaError:  # no candidate has this group in order
        reject()
    study = opened(sampler, count=count)
    for place in range(15):
        try:
            trial = study.ask(space)  # checks bounds and steps
        except optuna.TrialPruned:
            break
        values = [trial.params[name] for name in groups[0]]
        assert values == sorted(values, reverse=True)
        study.tell(trial, [float(place * 7 % 5), float(place), 1.0][:count])
    found = [tuple(map(str, one.params.values())) for one in study.trials if one.values]
    assert len(set(found)) == len(found)


def test_an_impossible_group_is_one_that_has_no_candidate() -> None:
    space = {"a": IntDistribution(0, 3), "b": IntDistribution(4, 9)}
    with pytest.raises(QualaError, match="cannot be non-increasing"):
        EvolutionarySampler(space, non_increasing=[["a", "b"]])
    assert EvolutionarySampler(space, non_increasing=[["b", "a"]])


@pytest.mark.parametrize("jobs", [1, 3])
def test_all_candidates_are_asked_once_and_then_the_study_stops(jobs: int) -> None:
    study = opened(sample())
    study.optimize(score, n_trials=3 * SIZE, n_jobs=jobs)
    assert len(asked(study)) == len(set(asked(study))) == SIZE
    rest = {trial.state for trial in study.trials if trial.state != TrialState.COMPLETE}
    assert rest <= ({TrialState.PRUNED} if jobs > 1 else set())


def test_asking_an_exhausted_study_says_so() -> None:
    space: dict[str, BaseDistribution] = {"bit": IntDistribution(0, 1)}
    study = opened(EvolutionarySampler(space, seed=1), count=1)
    for _ in range(2):
        study.tell(study.ask(space), 1.0)
    with pytest.raises(optuna.TrialPruned, match="were chosen before"):
        study.ask(space)


def test_it_finds_the_front() -> None:
    study = opened(sample())
    study.optimize(score, n_trials=60)
    assert {(32, 20, 4), (4, 4, 4)} <= {
        tuple(t.params[n] for n in NAMES) for t in study.best_trials
    }


def test_it_follows_the_direction_of_one_objective() -> None:
    space = {name: IntDistribution(0, 100) for name in NAMES}

    def distance(trial: optuna.Trial, sign: int) -> float:
        return sign * sum(abs(trial.suggest_int(name, 0, 100) - 70) for name in NAMES)

    least, most = (
        optuna.create_study(direction=direction, sampler=EvolutionarySampler(space, seed=3))
        for direction in ("minimize", "maximize")
    )
    least.optimize(partial(distance, sign=1), n_trials=100)
    most.optimize(partial(distance, sign=-1), n_trials=100)
    assert asked(least) == asked(most)
    assert least.best_value < 12  # of 100 random trials the best has about 25


def test_what_breaks_a_constraint_is_left() -> None:
    space = {name: IntDistribution(0, 100) for name in NAMES}
    study = optuna.create_study(sampler=EvolutionarySampler(space, seed=3))

    def bounded(trial: optuna.Trial) -> float:
        values = [trial.suggest_int(name, 0, 100) for name in NAMES]
        trial.set_constraint("first", values[0] - 20)
        return float(sum(abs(value - 70) for value in values))

    study.optimize(bounded, n_trials=150)
    kept = [trial.params["first"] <= 20 for trial in study.trials[75:]]
    assert sum(kept) > len(kept) / 2  # of random trials a fifth
    assert study.best_value < 65  # the best that the constraint leaves is 50


@pytest.mark.parametrize(
    ("kind", "space", "parts"),
    [
        ("journal", SPACE, (1, 12, 27)),
        ("journal", None, (1, 12, 27)),
        ("sqlite", None, (1, 6, 5)),
    ],
    ids=["journal", "journal, space unknown", "sqlite"],
)
def test_a_stopped_study_goes_on_as_if_it_had_not(
    kind: str, space: Any, parts: tuple[int, ...], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"non_increasing": [NAMES], "population_size": 4}
    whole, other = (opened(EvolutionarySampler(space, **options, seed=seed)) for seed in (5, 6))
    for study in (whole, other):
        study.optimize(score, n_trials=sum(parts))
    for trials in parts:
        storage = f"sqlite:///{tmp_path / 'study.db'}" if kind == "sqlite" else journal(tmp_path)
        study = opened(EvolutionarySampler(space, **options, seed=5), storage)
        study.optimize(score, n_trials=trials)
    assert asked(study) == asked(whole) != asked(other)


def test_ctrl_c_changes_nothing_and_a_candidate_that_fails_twice_is_left() -> None:
    whole, stopped = opened(sample()), opened(sample())
    whole.optimize(score, n_trials=30)
    failing = []

    def interrupted(trial: optuna.Trial) -> tuple[float, float]:
        values = score(trial)
        if trial.number in (3, 17):
            raise KeyboardInterrupt
        return values

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            stopped.optimize(interrupted, n_trials=32)
    stopped.optimize(score, n_trials=30 - len(asked(stopped)))
    assert asked(stopped) == asked(whole)

    def broken(trial: optuna.Trial) -> tuple[float, float]:
        values = score(trial)
        if trial.params["second"] > 20:
            failing.append(tuple(trial.params.values()))
            raise OSError
        return values

    study = opened(sample())
    study.optimize(broken, n_trials=60, catch=(OSError,))
    assert failing
    assert {failing.count(one) for one in failing} <= {1, 2}


SCRIPT = """
import os, signal, sys, time
sys.path[:0] = {paths!r}
import test_evolutionary as here
os.fsync = lambda descriptor: None
def slow(trial):
    values = here.score(trial)
    if {kill} == trial.number:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.003)
    return values
study = here.opened(here.sample(), here.journal(here.Path({folder!r})))
study.optimize(slow, n_trials={trials})
"""


def start(folder: Path, *, kill: int = -1, trials: int) -> subprocess.Popen[bytes]:
    paths = [str(Path(__file__).parent), *sys.path]
    code = SCRIPT.format(paths=paths, kill=kill, folder=str(folder), trials=trials)
    return subprocess.Popen([sys.executable, "-c", code])


def test_a_killed_process_loses_no_candidate(tmp_path: Path) -> None:
    whole = opened(sample())
    whole.optimize(score, n_trials=30)
    assert start(tmp_path, kill=14, trials=30).wait() == -signal.SIGKILL
    study = opened(sample(), journal(tmp_path))
    study.optimize(score, n_trials=16)
    assert asked(study) == asked(whole)


def test_processes_share_a_study_without_a_repeated_candidate(tmp_path: Path) -> None:
    opened(sample(), journal(tmp_path))
    workers = [start(tmp_path, trials=SIZE) for _ in range(2)]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    study = opened(sample(), journal(tmp_path))
    assert len(set(asked(study))) == len(asked(study)) == SIZE
    assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}


def test_what_fails_before_the_space_is_known_is_left_too() -> None:
    study = optuna.create_study(sampler=EvolutionarySampler(seed=0))

    def odd_ones_fail(trial: optuna.Trial) -> int:
        if (value := trial.suggest_int("a", 0, 30)) % 2:
            raise ValueError(value)
        return value

    study.optimize(odd_ones_fail, n_trials=12, catch=ValueError)
    assert [trial.params["a"] for trial in study.trials[:6]] == [13, 13, 11, 11, 17, 17]
    assert study.best_trials


def test_of_two_that_choose_the_same_at_once_one_chooses_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = opened(sample())
    choose = EvolutionarySampler._choose
    rivals: list[optuna.Trial] = []

    def late(self: Any, *arguments: Any) -> Any:
        chosen = choose(self, *arguments)
        if not rivals:
            rivals.append(study.ask())  # never suggests: its choice alone is stored
            given = dict(zip(SPACE, map(int, chosen)))
            study._storage.set_trial_system_attr(rivals[0]._trial_id, CHOSEN, given)
        return chosen

    rivals.append(study.ask())
    monkeypatch.setattr(EvolutionarySampler, "_choose", late)
    rivals.clear()
    mine = study.ask(SPACE)
    theirs = study.trials[rivals[0].number].system_attrs[CHOSEN]
    assert mine.params != theirs


def test_queued_candidates_count_and_may_be_given_in_part() -> None:
    study = opened(sample())
    study.enqueue_trial({"first": 32, "second": 20, "third": 4})
    study.enqueue_trial({"second": 12})
    study.optimize(score, n_trials=40)
    assert len(set(asked(study))) == 40
    second = study.trials[1].params
    assert second["first"] >= second["second"] == 12 >= second["third"]


def test_trials_of_other_samplers_are_parents() -> None:
    study = opened(optuna.samplers.RandomSampler(seed=1))
    study.optimize(score, n_trials=5)
    before = {tuple(trial.params.values()) for trial in study.trials}
    study.sampler = EvolutionarySampler(SPACE, population_size=1, seed=1)
    study.optimize(score, n_trials=1)
    child = tuple(study.trials[-1].params.values())
    assert child not in before
    assert any(sum(a != b for a, b in zip(child, one)) <= 2 for one in before)


def test_conditional_parameters_are_drawn_and_nothing_is_called_exhausted() -> None:
    def branching(trial: optuna.Trial) -> tuple[float, float]:
        kind = trial.suggest_categorical("kind", ["a", "b"])
        value = trial.suggest_int(f"{kind}_value", 0, 99)
        return float(value), float(kind == "a")

    study = opened(EvolutionarySampler(seed=1, population_size=4))
    study.optimize(branching, n_trials=30)
    assert len(asked(study)) == 30


@pytest.mark.parametrize("space", [None, {**SPACE, "extra": IntDistribution(0, 1)}])
def test_a_group_needs_parameters_that_every_trial_has(space: Any) -> None:
    def search() -> None:
        study = opened(EvolutionarySampler(space, non_increasing=[["first", "typo"]]))
        study.optimize(score, n_trials=2)

    with pytest.raises(QualaError, match=r"`non_increasing` needs .* got \['typo'\]"):
        search()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"population_size": 0}, "`population_size` must be at least 1"),
        ({"crossover_prob": 1.5}, r"`crossover_prob` must lie in \[0, 1\]"),
        ({"non_increasing": ["first", "second"]}, "`non_increasing` is a list of lists"),
        ({"non_increasing": [["first"], ["first"]]}, r"\['first'\] more than once"),
    ],
)
def test_bad_options_are_one_sentence(options: Any, words: str) -> None:
    with pytest.raises(QualaError, match=words):
        sample(**options)


def test_categories_have_no_order() -> None:
    space = {"kind": CategoricalDistribution(["a", "b"]), "number": IntDistribution(0, 1)}
    with pytest.raises(QualaError, match="Categories have no order"):
        EvolutionarySampler(space, non_increasing=[["kind", "number"]])


def test_one_sampler_serves_two_studies_and_may_be_copied() -> None:
    sampler = EvolutionarySampler(non_increasing=[NAMES], seed=2)
    first, second = opened(sampler), opened(deepcopy(sampler))
    third = opened(sampler)
    for study in (first, second, third):
        study.optimize(score, n_trials=12)
    assert asked(first) == asked(second) == asked(third)


def test_the_example_of_the_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    guide = (Path(__file__).parents[2] / "docs/guide/optuna-sampler.md").read_text("utf-8")
    made: dict[str, Any] = {}
    exec(guide.split("```python\n")[1].split("```")[0], made)
    assert "points on the front" in capsys.readouterr().out
    for trial in made["study"].trials:
        widths = [trial.params[name] for name in made["WIDTHS"]]
        assert widths == sorted(widths, reverse=True)
