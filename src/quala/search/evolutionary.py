"""An evolutionary sampler for any Optuna study: mutation and crossover of its Pareto front."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import astuple
from itertools import chain
from random import Random
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from optuna import TrialPruned
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from quala.errors import QualaError
from quala.process import Process
from quala.search.parameters import Candidate, Parameters

WORKER = "evolutionary:worker"
CHOSEN = "evolutionary:params"
"""What a trial was given; its parameters are stored only when the objective asks for them."""

_PARENTS = 5
"""A smaller front is joined by the next ones: with one objective it has a single candidate."""
_TRIES = 200
"""Children, then draws, that were chosen before; the rest of the space is listed then."""


class EvolutionarySampler(BaseSampler):
    """Samples children of the Pareto front and never the same candidate twice.

    `space` are the parameters of the objective; without it they are those that all completed
    trials have, from the second trial on. `non_increasing` are groups of names, none of whose
    values is above the one before it. The first `population_size` trials are random; of groups,
    the second and third trial take the largest and the smallest values. Further trials exchange
    parameters of two parents with `crossover_prob`, and then change some. All randomness comes
    from the seed and the number of trials so far, so that a study goes on as if it had never
    stopped. When all candidates were chosen, the study stops. Raises QualaError for options out
    of range and for groups that no candidate can satisfy.
    """

    def __init__(
        self,
        space: Mapping[str, BaseDistribution] | None = None,
        *,
        non_increasing: Sequence[Sequence[str]] = (),
        population_size: int = 20,
        crossover_prob: float = 0.5,
        seed: int | None = None,
    ) -> None:
        if population_size < 1:
            raise QualaError(f"`population_size` must be at least 1, got {population_size}.")
        if not 0 <= crossover_prob <= 1:
            raise QualaError(f"`crossover_prob` must lie in [0, 1], got {crossover_prob}.")
        names = [name for group in non_increasing for name in group]
        if isinstance(non_increasing, str) or any(isinstance(one, str) for one in non_increasing):
            raise QualaError(f"`non_increasing` is a list of lists, got {non_increasing!r}.")
        if twice := sorted(name for name, times in Counter(names).items() if times > 1):
            raise QualaError(f"`non_increasing` has {twice} more than once.")
        self._space = None if space is None else dict(space)
        self._groups = tuple(tuple(group) for group in non_increasing)
        self._population_size = population_size
        self._crossover_prob = crossover_prob
        self._seed = Random().getrandbits(32) if seed is None else seed
        if self._space is not None:
            self._check(self._space)
            Parameters.of(self._space, self._groups)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Store which process works on the trial."""
        _store(study, trial, WORKER, list(astuple(Process.this())))

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the given space, or the parameters of all completed trials."""
        if self._space is not None:
            return dict(self._space)
        space = _INTERSECTIONS.setdefault(study, IntersectionSearchSpace()).calculate(study)
        if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            self._check(space)
        return space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a candidate that no trial has; nothing when there is none."""
        fixed = _fixed(trial)
        if not search_space.keys() - fixed.keys():
            return {}
        space = Parameters.of(search_space, self._groups, fixed=fixed)
        others = _others(study, trial)
        place = _place(trial, others)
        salt = str(place)
        while True:
            known = _Known(study, space, others)
            chosen = self._choose(known, space, Random(f"{self._seed}:{salt}"), place)
            params = None if chosen is None else space.write(chosen)
            _store(study, trial, CHOSEN, params)
            # Another worker may have chosen the same at this moment. Each one stores its choice
            # before it looks, so that at least one of the two sees the other.
            others = _others(study, trial)
            if params is None:
                return {}
            if chosen not in _Known(study, space, others).taken():
                return params
            salt += f":{trial.number}"

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw a parameter, in a group between those of its group that the trial has.

        Raises TrialPruned when the trial has no candidate because all were chosen before.
        """
        stored = study._storage.get_trial(trial._trial_id).system_attrs
        if CHOSEN in stored and stored[CHOSEN] is None:
            raise TrialPruned("All candidates of the space were chosen before.")
        space = Parameters.of(
            {**trial.distributions, param_name: param_distribution},
            self._groups,
            fixed={name: value for name, value in trial.params.items() if name != param_name},
        )
        field = space.fields[list(space.distributions).index(param_name)]
        rng = Random(f"{self._seed}:{_turn(trial, _others(study, trial))}:{param_name}")
        return param_distribution.to_external_repr(field.draw(rng))

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Stop the study when all candidates were chosen."""
        distributions = self.infer_relative_search_space(study, trial) or trial.distributions
        if state == TrialState.FAIL or not distributions:
            return  # what failed is tried once more
        space = Parameters.of(distributions, self._groups)
        taken = _Known(study, space, study.get_trials(deepcopy=False)).taken()
        if space.countable and all(one in taken for one in space.every()):
            with suppress(RuntimeError):  # outside of `study.optimize` there is nothing to stop
                study.stop()

    def _check(self, space: Mapping[str, BaseDistribution]) -> None:
        absent = [name for group in self._groups for name in group if name not in space]
        if absent:
            raise QualaError(
                f"`non_increasing` needs parameters that every trial has, with one range, got "
                f"{absent}; there are {sorted(space)}."
            )

    def _choose(
        self, known: _Known, space: Parameters, rng: Random, place: int
    ) -> Candidate | None:
        """Return a candidate that no trial has, None when there is none."""
        taken, parents = known.taken(), known.parents()
        children: Iterator[Candidate] = iter(())
        if parents and place >= self._population_size:
            children = (self._child(space, parents, rng) for _ in range(_TRIES))
        elif self._groups and place in (1, 2):
            children = iter([space.end(rng, highest=place == 1)])
        drawn = (space.draw(rng) for _ in range(_TRIES))
        rest = space.every() if space.countable else iter(())
        return next((one for one in chain(children, drawn, rest) if one not in taken), None)

    def _child(self, space: Parameters, parents: Sequence[Candidate], rng: Random) -> Candidate:
        child = rng.choice(parents)
        if rng.random() < self._crossover_prob:
            child = space.cross(child, rng.choice(parents), rng)
        return space.mutate(child, rng)


def _store(study: Study, trial: FrozenTrial, key: str, value: Any) -> None:
    study._storage.set_trial_system_attr(trial._trial_id, key, value)


def _others(study: Study, trial: FrozenTrial) -> list[FrozenTrial]:
    """Return all other trials but those whose process on this host is dead."""
    trials = study.get_trials(deepcopy=False)
    return [one for one in trials if one.number != trial.number and not _abandoned(one)]


def _abandoned(trial: FrozenTrial) -> bool:
    record = trial.system_attrs.get(WORKER)
    if trial.state != TrialState.RUNNING or record is None:
        return False
    worker = Process(*record)
    return worker.is_local and not worker.lives()


def _place(trial: FrozenTrial, others: Sequence[FrozenTrial]) -> int:
    """Return how many earlier trials there are; what failed is done again and does not count."""
    return sum(one.number < trial.number and one.state != TrialState.FAIL for one in others)


def _turn(trial: FrozenTrial, others: Sequence[FrozenTrial]) -> str:
    """Return the place of a trial, and after two failures there that it is another try."""
    earlier = [one for one in others if one.number < trial.number]
    stays = [one.number for one in earlier if one.state != TrialState.FAIL]
    failures = sum(one.number > max(stays, default=-1) for one in earlier)
    return f"{_place(trial, others)}{f'+{failures // 2}' * (failures > 1)}"


def _fixed(trial: FrozenTrial) -> dict[str, Any]:
    """Return the parameters that a trial was queued with."""
    return dict(trial.system_attrs.get("fixed_params", {}))


_Read = dict[int, Candidate | None]
_INTERSECTIONS: WeakKeyDictionary[Study, IntersectionSearchSpace] = WeakKeyDictionary()
_READ: WeakKeyDictionary[Study, tuple[Parameters, _Read]] = WeakKeyDictionary()
"""Of each study what no longer changes: read once, not again for every trial."""


class _Known:
    """The candidates of a space that the trials of a study have."""

    def __init__(self, study: Study, space: Parameters, trials: Sequence[FrozenTrial]) -> None:
        self._space, self._trials, self._directions = space, trials, study.directions
        stored = _READ.get(study)
        if stored is None or stored[0] != space:
            stored = _READ[study] = (space, {})
        self._read = stored[1]

    def __getitem__(self, trial: FrozenTrial) -> Candidate | None:
        """Return a trial's candidate, None when it has none of this space."""
        if trial.number in self._read:
            return self._read[trial.number]
        chosen = trial.system_attrs.get(CHOSEN) or {}
        found = self._space.read({**chosen, **_fixed(trial), **trial.params})
        if trial.state.is_finished():
            self._read[trial.number] = found
        return found

    def taken(self) -> AbstractSet[Candidate | None]:
        """Return the candidates that may not come again; one that failed once may.

        There are none where a trial has other parameters besides: its candidate is only a part.
        """
        names = self._space.distributions.keys()
        if any(one.distributions.keys() - names for one in self._trials):
            return frozenset()
        failed = [one for one in self._trials if one.state == TrialState.FAIL]
        failures = Counter(self[one] for one in failed)
        standing = {self[one] for one in self._trials if one.state != TrialState.FAIL}
        return standing | {one for one, times in failures.items() if times > 1}

    def parents(self) -> list[Candidate]:
        """Return the Pareto front, with the next ones while it has less than `_PARENTS`.

        What breaks a constraint comes after all that does not, the least violation first.
        """
        done = [one for one in self._trials if one.state == TrialState.COMPLETE]
        pairs = [(one, found) for one in done if (found := self[one]) is not None]
        signs = [-1 if one == StudyDirection.MAXIMIZE else 1 for one in self._directions]
        losses = np.array([one.values for one, _ in pairs]).reshape(-1, len(signs)) * signs
        excess = np.array([sum(max(0.0, v) for v in t.constraints.values()) for t, _ in pairs])
        left, chosen = np.flatnonzero(excess <= 0), list[int]()
        while left.size and len(chosen) < _PARENTS:
            front = left[_undominated(losses[left])]
            chosen += front.tolist()
            left = np.setdiff1d(left, front)
        broken = [place for place in np.argsort(excess, kind="stable") if excess[place] > 0]
        chosen += broken[: max(0, _PARENTS - len(chosen))]
        return [pairs[place][1] for place in chosen]


def _undominated(losses: NDArray[np.float64]) -> list[int]:
    """Return the rows (N, M) that no other row is as good as in every column; of equals one."""
    left, front = np.lexsort(losses.T[::-1]), list[int]()
    while left.size:
        front.append(int(left[0]))
        left = left[(losses[left] < losses[left[0]]).any(axis=1)]
    return front
