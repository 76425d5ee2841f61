"""One worker's part in a study: which genes it asks for, and what it tells about them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import optuna
from optuna.trial import FrozenTrial, TrialState

from quala.lengths import LengthConfig
from quala.search.result import Candidate
from quala.search.sampler import EvolutionarySampler
from quala.search.scored import Evaluator, OnCandidate, Scored
from quala.search.settings import SearchSettings
from quala.search.space import Space
from quala.search.trials import (
    DUPLICATE_OF,
    EXAMPLES,
    EXHAUSTED,
    ORIGIN,
    RETRY_OF,
    SLOT,
    STOPPED,
    WORKER,
    Worker,
    abandoned,
    free_slot,
    lengths_of,
    original_of,
)

_POLL_SECONDS = 0.05

Asked = tuple[optuna.Trial, LengthConfig]


@dataclass
class Session:
    """Works on a study until `target` genes are scored.

    Leaving the `with` block by an exception gives the trials under way back to the study.
    """

    study: optuna.Study
    space: Space
    settings: SearchSettings
    sampler: EvolutionarySampler
    target: int
    _recalled: set[int] = field(default_factory=set)
    _exhausted_at: int = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            mine = Worker.this().record()
            self._give_back(lambda trial: trial.user_attrs.get(WORKER) == mine)

    def run(self, evaluator: Evaluator, on_candidate: OnCandidate | None) -> None:
        """Score batch after batch until the search is at its end."""
        while batch := self._ask():
            self._recall(evaluator)
            scored = evaluator.evaluate([gene for _, gene in batch])
            for (trial, _), outcome in zip(batch, scored, strict=True):
                candidate = self._tell(trial, outcome)
                if on_candidate:
                    on_candidate(candidate)

    def candidates(self) -> list[Candidate]:
        """Return what was scored, in the order of the slots."""
        done = self._trials(TrialState.COMPLETE)
        done.sort(key=lambda trial: (trial.user_attrs[SLOT], trial.number))
        scored = map(self._scored, done)
        full = next((one for one in scored if not any(one.lengths.drops)), None)
        return [self._candidate(trial, full) for trial in done]

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _ask(self) -> list[Asked]:
        """Return the next genes to score, none at the end; wait while others may leave some."""
        while True:
            self._give_back(abandoned)
            batch = self._ask_batch()
            if batch or not self._trials(TrialState.RUNNING, TrialState.WAITING):
                return batch
            time.sleep(_POLL_SECONDS)

    def _ask_batch(self) -> list[Asked]:
        share = -(-(self.sampler.population_size or 1) // self.settings.workers)
        batch: list[Asked] = []
        while (len(batch) < share or self.settings.workers == 1) and self._ready():
            trial = self.study.ask(self.space.distributions())
            slot = trial.user_attrs[SLOT]
            if EXHAUSTED in trial.user_attrs or slot >= self.target:
                self.study.tell(trial, state=TrialState.FAIL)
                self._exhausted_at = len(self._trials(TrialState.COMPLETE))
                break
            gene = self._original_or_gene(trial)
            if gene is not None:
                batch.append((trial, gene))
            if batch and self.sampler.generation(slot + 1) != self.sampler.generation(slot):
                break
        return batch

    def _ready(self) -> bool:
        """Say whether there is a gene to ask for, and something to breed it from."""
        trials = self._trials()
        if any(trial.state == TrialState.WAITING for trial in trials):
            return True
        slot = free_slot(trials)
        complete = sum(trial.state == TrialState.COMPLETE for trial in trials)
        breedable = complete > 0 or self.sampler.generation(slot) == 0
        return slot < self.target and breedable and complete != self._exhausted_at

    def _original_or_gene(self, trial: optuna.Trial) -> LengthConfig | None:
        """Return the gene to score; None when an earlier trial already has it."""
        while True:
            trials = self._trials()
            original, undecided = original_of(trials[trial.number], trials, self.space)
            if not undecided:
                break
            time.sleep(_POLL_SECONDS)
        if original is None:
            return self.space.from_params(trial.params)
        trial.set_user_attr(DUPLICATE_OF, original)
        self.study.tell(trial, state=TrialState.FAIL)
        return None

    def _recall(self, evaluator: Evaluator) -> None:
        """Tell the evaluator what others, or this search before a restart, have scored."""
        news = [t for t in self._trials(TrialState.COMPLETE) if t.number not in self._recalled]
        evaluator.recall([self._scored(trial) for trial in news])
        self._recalled.update(trial.number for trial in news)

    def _tell(self, trial: optuna.Trial, scored: Scored) -> Candidate:
        trial.set_user_attr(EXAMPLES, list(scored.examples))
        trial.set_user_attr(STOPPED, scored.stopped)
        # a constraint keeps early-stopped genes out of `study.best_trials` too
        trial.set_constraint(STOPPED, float(scored.stopped))
        if self.settings.max_cost is not None:
            trial.set_constraint("max_cost", scored.cost - self.settings.max_cost)
        if self.settings.min_score is not None:
            trial.set_constraint("min_score", self.settings.min_score - scored.score)
        told = self.study.tell(trial, [scored.score, scored.cost])
        self._recalled.add(told.number)
        return self._candidate(told)

    def _gene(self, trial: FrozenTrial) -> LengthConfig:
        lengths = (int(trial.params[name]) for name in self.space.distributions())
        return LengthConfig(tuple(lengths), self.space.sequence_length)

    def _scored(self, trial: FrozenTrial) -> Scored:
        score, cost = trial.values
        attributes = trial.user_attrs
        examples = tuple(attributes[EXAMPLES])
        return Scored(self._gene(trial), cost, score, attributes[STOPPED], examples)

    def _candidate(self, trial: FrozenTrial, full: Scored | None = None) -> Candidate:
        scored = self._scored(trial)
        limits = {key: value for key, value in trial.constraints.items() if key != STOPPED}
        return Candidate(
            lengths=scored.lengths,
            cost=scored.cost,
            score=scored.score,
            generation=self.sampler.generation(trial.user_attrs[SLOT]),
            origin=trial.user_attrs[ORIGIN],
            examples=len(scored.examples),
            stopped_early=scored.stopped,
            feasible=all(value <= 0 for value in limits.values()),
            error=scored.difference_error(full) if full else None,
        )

    def _give_back(self, dead: Callable[[FrozenTrial], bool]) -> None:
        """Fail the running trials of dead workers and put their genes back into the queue."""
        trials = self._trials()
        retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        for trial in trials:
            if trial.state != TrialState.RUNNING or not dead(trial):
                continue
            gene, attributes = lengths_of(trial, self.space), trial.user_attrs
            # queued before the trial fails: a kill in between must not lose the gene
            if gene is not None and EXHAUSTED not in attributes and trial.number not in retried:
                kept = {SLOT: attributes[SLOT], ORIGIN: attributes[ORIGIN]}
                self.study.enqueue_trial(
                    self.space.to_params(gene), user_attrs={**kept, RETRY_OF: trial.number}
                )
            self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
