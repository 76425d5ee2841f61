"""Optuna's sampler for lengths: a strategy's proposals in slots, and what trials record."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from datetime import UTC, datetime
from random import Random
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseGASampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from quala.errors import QualaError
from quala.lengths import LengthConfig
from quala.process import Process
from quala.search.space import Space
from quala.search.strategy import EvaluatedLengths, Proposal, SearchSettings, Strategy

SLOT = "slot"
GENERATION = "generation"
ORIGIN = "origin"
STOPPED = "stopped_early"
EXAMPLES = "examples"
WORKER = "worker"
EXHAUSTED = "exhausted"
RETRY_OF = "retry_of"

TAKEN = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE)
_SECONDS_WITHOUT_WORKER = 5.0
"""A trial has its worker a moment after it starts; without one for so long it is abandoned."""
_SECONDS_ELSEWHERE = 3600.0
"""Longer than one batch takes; on another host only the age of a trial is known."""


def lengths_of(trial: FrozenTrial, space: Space) -> LengthConfig | None:
    """Return a trial's lengths, None while it does not have all of them."""
    fixed = trial.system_attrs.get("fixed_params", {})
    return space.from_params({**fixed, **trial.params})


def known_of(trial: FrozenTrial, space: Space) -> EvaluatedLengths | None:
    """Return the evaluated lengths of a finished trial, None for any other trial."""
    lengths = lengths_of(trial, space)
    if trial.state != TrialState.COMPLETE or lengths is None:
        return None
    score, cost = trial.values
    return EvaluatedLengths(lengths, cost=cost, score=score, stopped=trial.user_attrs[STOPPED])


def free_slot(trials: Iterable[FrozenTrial]) -> int:
    """Return the first slot of the search that no trial holds; a failed trial holds none."""
    held = {trial.user_attrs.get(SLOT) for trial in trials if trial.state in TAKEN}
    return next(slot for slot in range(len(held) + 1) if slot not in held)


def abandoned(trial: FrozenTrial) -> bool:
    """Return whether a running trial's worker is dead; on another host the age decides."""
    record = trial.user_attrs.get(WORKER)
    if record is None:
        return _age(trial) > _SECONDS_WITHOUT_WORKER
    worker = Process(*record)
    return not worker.lives() if worker.is_local else _age(trial) > _SECONDS_ELSEWHERE


def _age(trial: FrozenTrial) -> float:
    start = trial.datetime_start
    if start is None:
        return 0.0
    began = start if start.tzinfo else start.replace(tzinfo=UTC)
    return time.time() - began.timestamp() if began < datetime.now(UTC) else 0.0


class LengthSampler(BaseGASampler):
    """Samples `length_1` to `length_L`, non-increasing and never the same lengths twice.

    A trial takes the first free slot of the search. The slot decides the generation and, with
    the seed, the randomness, so that a resumed study goes on exactly as it would have. When the
    strategy finds no new lengths, the trial is marked `exhausted` and carries the full length.
    """

    def __init__(self, space: Space, strategy: Strategy, settings: SearchSettings) -> None:
        super().__init__(population_size=settings.generation_size)
        self._space = space
        self._strategy = strategy
        self._seeds = strategy.seeds()
        self._settings = settings
        self._worker = list(astuple(Process.this()))

    # Optuna's keys hold the class's name: studies of earlier versions have this one.
    @classmethod
    def _get_generation_key(cls) -> str:
        return "EvolutionarySampler:generation"

    @classmethod
    def _get_parent_cache_key_prefix(cls) -> str:
        return "EvolutionarySampler:parent:"

    def generation(self, slot: int) -> int:
        """Return the generation of a slot; the seeds are generation 0."""
        if slot < len(self._seeds):
            return 0
        return 1 + (slot - len(self._seeds)) // self._settings.generation_size

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Give the trial its worker and its slot; a trial taken up again keeps the slot."""
        self._set(study, trial, {WORKER: self._worker})
        if SLOT not in trial.user_attrs:
            self._set(study, trial, {SLOT: free_slot(study.get_trials(deepcopy=False))})
        self._set(study, trial, {GENERATION: self.generation(trial.user_attrs[SLOT])})
        self.get_trial_generation(study, trial)

    def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:
        """Return the generation that the trial's slot belongs to, and store it once."""
        key = self._get_generation_key()
        if key not in trial.system_attrs:
            generation = self.generation(trial.user_attrs[SLOT])
            study._storage.set_trial_system_attr(trial._trial_id, key, generation)
            trial.system_attrs[key] = generation
        return int(trial.system_attrs[key])

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the lengths of all layers."""
        return self._space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the lengths of the strategy's next proposal."""
        proposal = self._propose(study, trial)
        if proposal is None:
            self._set(study, trial, {EXHAUSTED: True})
            return self._space.to_params(self._space.full)
        self._set(study, trial, {ORIGIN: proposal.origin})
        return self._space.to_params(proposal.lengths)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Raise QualaError: a trial has no parameters but the lengths of the space."""
        raise QualaError(f"The search samples lengths of its space only, got `{param_name}`.")

    def select_parent(self, study: Study, generation: int) -> list[FrozenTrial]:
        """Return the trials of earlier generations that the strategy takes as parents."""
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        trials = [trial for trial in done if self._generation_of(trial) < generation]
        chosen = set(self._strategy.parents(self._known(trials)))
        return [trial for trial in trials if known_of(trial, self._space) in chosen]

    def _propose(self, study: Study, trial: FrozenTrial) -> Proposal | None:
        slot, generation = trial.user_attrs[SLOT], self.get_trial_generation(study, trial)
        if generation == 0:
            return Proposal(self._seeds[slot], "seed")
        parents = self._known(self.get_parent_population(study, generation))
        trials = study.get_trials(deepcopy=False)
        asked = (lengths_of(other, self._space) for other in trials)
        return self._strategy.propose(
            Random(f"{self._settings.seed}:{slot}"),
            parents=parents,
            accepted=self._accepted(trials, slot, generation),
            seen=frozenset(one for one in asked if one is not None),
        )

    def _accepted(
        self, trials: Sequence[FrozenTrial], slot: int, generation: int
    ) -> list[LengthConfig]:
        """Return the lengths of this generation's earlier slots, in their order."""
        earlier = {
            other.user_attrs[SLOT]: lengths_of(other, self._space)
            for other in trials
            if other.state in TAKEN
            and self._generation_of(other) == generation
            and other.user_attrs[SLOT] < slot
        }
        ordered = (earlier[key] for key in sorted(earlier))
        return [lengths for lengths in ordered if lengths is not None]

    def _known(self, trials: Sequence[FrozenTrial]) -> list[EvaluatedLengths]:
        ordered = sorted(trials, key=lambda trial: (trial.user_attrs[SLOT], trial.number))
        known = (known_of(trial, self._space) for trial in ordered)
        return [point for point in known if point is not None]

    def _generation_of(self, trial: FrozenTrial) -> int:
        """Return a trial's generation, -1 before it has one."""
        return int(trial.system_attrs.get(self._get_generation_key(), -1))

    def _set(self, study: Study, trial: FrozenTrial, attributes: dict[str, Any]) -> None:
        for key, value in attributes.items():
            study._storage.set_trial_user_attr(trial._trial_id, key, value)
            trial.user_attrs[key] = value
