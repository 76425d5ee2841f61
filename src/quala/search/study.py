"""A search as an Optuna study, on which several processes may work, and that survives a kill."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from quala.durable import read_whole, write_whole
from quala.errors import QualaError
from quala.lengths import LengthConfig
from quala.process import Process
from quala.search.evaluate import Evaluation, Evaluator
from quala.search.published import MUTATION_PROBABILITY
from quala.search.result import SearchCandidate, SearchResult
from quala.search.sampler import (
    EXAMPLES,
    EXHAUSTED,
    ORIGIN,
    RETRY_OF,
    SLOT,
    STOPPED,
    WORKER,
    LengthSampler,
    abandoned,
    free_slot,
    lengths_of,
)
from quala.search.scores import Scores
from quala.search.space import Space
from quala.search.storage import (
    JOURNAL,
    explained,
    export_study,
    locked,
    open_journal,
    open_storage,
)
from quala.search.strategy import SearchSettings, build_strategy

IDENTITY = "identity"
_NAME, _CONSTRAINTS = "study.json", "constraints"


@dataclass(frozen=True)
class StudyPlace:
    """Where a search is kept, and what its study says of itself.

    `folder` belongs to one search, which goes on from there after a kill. The study is a journal
    in it, or in `storage`, a database or a journal of many studies; there `name` gets a suffix
    that no other search has. `metrics` names the score and the cost, `facts` are attributes of
    the study.
    """

    folder: Path
    storage: str | None = None
    name: str = "search"
    metrics: tuple[str, str] = ("score", "cost")
    facts: Mapping[str, Any] = field(default_factory=dict)

    def open(self, sampler: BaseSampler, *, identity: Mapping[str, Any]) -> optuna.Study:
        """Open the study, or create it: maximize the score, minimize the cost.

        Raises QualaError when the folder holds a search with another `identity`, and for a storage
        that cannot be used.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):
            if self.storage is None:
                storage: optuna.storages.BaseStorage = open_journal(self.folder / JOURNAL)
                name = next(iter(optuna.get_all_study_names(storage)), self.name)
            else:
                storage, name = open_storage(self.storage), self._unique_name()
            study = optuna.create_study(
                storage=storage,
                sampler=sampler,
                study_name=name,
                directions=["maximize", "minimize"],
                load_if_exists=True,
            )
            if study.metric_names is None:
                for key, value in self.facts.items():
                    study.set_user_attr(key, value)
                with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
                    study.set_metric_names(list(self.metrics))
            if (stored := study.user_attrs.get(IDENTITY)) is None:
                study.set_user_attr(IDENTITY, stored := dict(identity))
        if stored != identity:
            changed = sorted(key for key in identity if stored.get(key) != identity[key])
            raise QualaError(
                f"The folder `{self.folder}` holds a search with other settings "
                f"({', '.join(changed)}); use another folder."
            )
        return study

    def _unique_name(self) -> str:
        """Return the study's name in a storage of many, which the folder keeps."""
        file = self.folder / _NAME
        if not isinstance(kept := read_whole(file), str):
            kept = f"{self.name} {uuid4().hex[:12]}"
            write_whole(file, json.dumps(kept))
        return kept


def identity_of(space: Space, settings: SearchSettings) -> dict[str, Any]:
    """Return what makes two searches the same, in the form that the study keeps.

    Two keys are kept for studies of earlier versions: `workers`, always 0, since any number may
    go on with a search, and `mutation_probability`, which was an option.
    """
    chosen = {field.name: getattr(settings, field.name) for field in fields(SearchSettings)}
    if chosen["prior"] == "none":
        del chosen["prior"]  # nor this
    constant = {"workers": 0, "mutation_probability": MUTATION_PROBABILITY}
    explored = asdict(space)
    if not space.structures:  # studies of earlier versions know none
        del explored["structures"], explored["units"]
        if explored["lower"]:
            del explored["lower"]["layers"]
    identity = {"space": explored, "settings": {**chosen, **constant}}
    plain: dict[str, Any] = json.loads(json.dumps(identity))
    return plain


_POLL_SECONDS = 0.05
"""Between two looks at the journal for the work of others; chosen by hand."""

Asked = tuple[optuna.Trial, LengthConfig]
OnCandidate = Callable[[SearchCandidate], None]


@dataclass
class StudyWorker:
    """Works on a study until `target` lengths are scored."""

    study: optuna.Study
    space: Space
    settings: SearchSettings
    sampler: LengthSampler
    target: int
    place: StudyPlace
    scores: Scores
    _exhausted_at: int = -1

    def run(self, evaluator: Evaluator, on_candidate: OnCandidate | None) -> None:
        """Score batch after batch until the search ends; give back what was not scored."""
        mine = list(astuple(Process.this()))
        try:
            if lost := self._without_scores():
                self._score(evaluator, lost)
            while batch := self._ask():
                found = self._score(evaluator, [lengths for _, lengths in batch])
                for (trial, _), evaluation in zip(batch, found, strict=True):
                    candidate = self._tell(trial, evaluation)
                    if on_candidate:
                        on_candidate(candidate)
        finally:
            with locked(self.place.folder):
                self._give_back(lambda trial: trial.user_attrs.get(WORKER) == mine)

    def candidates(self) -> list[SearchCandidate]:
        """Return what was scored, in the order of the slots."""
        done = self._trials(TrialState.COMPLETE)
        done.sort(key=lambda trial: (trial.user_attrs[SLOT], trial.number))
        evaluations = map(self._evaluation, done)
        full = next((one for one in evaluations if one.lengths.is_full), None)
        return [self._candidate(trial, full) for trial in done]

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _ask(self) -> list[Asked]:
        """Return the next lengths to score, none at the end; wait while others work."""
        while True:
            # One process at a time: each choice follows from those before it.
            with locked(self.place.folder):
                self._give_back(abandoned)
                busy = bool(self._trials(TrialState.RUNNING, TrialState.WAITING))
                batch = self._ask_batch()
            if batch or not busy:
                return batch
            time.sleep(_POLL_SECONDS)

    def _ask_batch(self) -> list[Asked]:
        share = -(-self.settings.generation_size // self.settings.workers)
        batch: list[Asked] = []
        while (len(batch) < share or self.settings.workers == 1) and self._ready():
            trial = self.study.ask(self.space.distributions())
            slot = trial.user_attrs[SLOT]
            if EXHAUSTED in trial.user_attrs or slot >= self.target:
                self.study.tell(trial, state=TrialState.FAIL)
                self._exhausted_at = len(self._trials(TrialState.COMPLETE))
                break
            lengths = self.space.from_params(trial.params)
            assert lengths is not None  # asked with the distributions of all layers
            batch.append((trial, lengths))
            if self.sampler.generation(slot + 1) != self.sampler.generation(slot):
                break
        return batch

    def _ready(self) -> bool:
        """Return whether there are lengths to ask for: a generation waits for those before it."""
        trials = self._trials()
        if any(trial.state == TrialState.WAITING for trial in trials):
            return True
        slot = free_slot(trials)
        generation = self.sampler.generation(slot)
        complete = sum(trial.state == TrialState.COMPLETE for trial in trials)
        parents_known = generation == 0 or (
            complete > 0
            and not any(
                trial.state == TrialState.RUNNING
                and self.sampler.generation(trial.user_attrs.get(SLOT, 0)) < generation
                for trial in trials
            )
        )
        return slot < self.target and parents_known and complete != self._exhausted_at

    def _score(self, evaluator: Evaluator, batch: Sequence[LengthConfig]) -> list[Evaluation]:
        """Score lengths; what others, or this search before a kill, have scored is known."""
        evaluator.recall([*self._earlier(), *self.scores.read().values()])
        found = evaluator.evaluate(batch)
        self.scores.add(found)
        return found

    def _earlier(self) -> list[Evaluation]:
        """Return what an earlier version has scored: it kept the scores in the study itself."""
        trials = self._trials(TrialState.COMPLETE)
        return [self._evaluation(one) for one in trials if not _counted(one)]

    def _without_scores(self) -> list[LengthConfig]:
        """Return the finished lengths whose scores are lost, as after a power cut."""
        trials = filter(_counted, self._trials(TrialState.COMPLETE))
        found = [self._evaluation(trial).lengths for trial in trials]
        return [lengths for lengths in found if self.scores.get(lengths) is None]

    def _tell(self, trial: optuna.Trial, found: Evaluation) -> SearchCandidate:
        trial.set_user_attr(EXAMPLES, len(found.examples))
        trial.set_user_attr(STOPPED, found.stopped)
        # A constraint keeps lengths that were stopped early out of `study.best_trials` too.
        trial.set_constraint(STOPPED, float(found.stopped))
        if self.settings.max_cost is not None:
            trial.set_constraint("max_cost", found.cost - self.settings.max_cost)
        if self.settings.min_score is not None:
            trial.set_constraint("min_score", self.settings.min_score - found.score)
        # optuna-dashboard 0.21 knows only the list of Optuna 4.
        worst = [max(trial.constraints.values())]
        self.study._storage.set_trial_system_attr(trial._trial_id, _CONSTRAINTS, worst)
        return self._candidate(self.study.tell(trial, [found.score, found.cost]))

    def _evaluation(self, trial: FrozenTrial) -> Evaluation:
        lengths = self.space.from_params(trial.params)
        assert lengths is not None  # a trial is told with all of them
        score, cost = trial.values
        seen = trial.user_attrs[EXAMPLES]
        if _counted(trial):
            scored = self.scores.get(lengths)
            seen = scored.examples if scored else ()
        return Evaluation(lengths, cost, score, trial.user_attrs[STOPPED], tuple(seen))

    def _candidate(self, trial: FrozenTrial, full: Evaluation | None = None) -> SearchCandidate:
        found = self._evaluation(trial)
        limits = [trial.constraints.get(key, 0.0) for key in ("max_cost", "min_score")]
        return SearchCandidate(
            lengths=found.lengths,
            cost=found.cost,
            score=found.score,
            generation=self.sampler.generation(trial.user_attrs[SLOT]),
            origin=trial.user_attrs[ORIGIN],
            examples=len(found.examples),
            stopped_early=found.stopped,
            feasible=max(limits) <= 0,
            error=found.difference_error(full) if full else None,
        )

    def _give_back(self, dead: Callable[[FrozenTrial], bool]) -> None:
        """Fail the running trials of dead workers and put their lengths back into the queue."""
        trials = self._trials()
        taken = {
            lengths_of(trial, self.space)
            for trial in trials
            if trial.state in (TrialState.WAITING, TrialState.COMPLETE)
        }
        for trial in trials:
            if trial.state != TrialState.RUNNING or not dead(trial):
                continue
            lengths, attributes = lengths_of(trial, self.space), trial.user_attrs
            # Queued before the trial fails: a kill in between must not lose the lengths.
            if lengths is not None and EXHAUSTED not in attributes and lengths not in taken:
                kept = {SLOT: attributes[SLOT], ORIGIN: attributes[ORIGIN]}
                self.study.enqueue_trial(
                    self.space.to_params(lengths), user_attrs={**kept, RETRY_OF: trial.number}
                )
                taken.add(lengths)
            self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _counted(trial: FrozenTrial) -> bool:
    """Return whether the scores of a trial's examples are not in the study, but their number."""
    return isinstance(trial.user_attrs[EXAMPLES], int)


_FINISHED = "finished"


def run_search(
    evaluator: Evaluator,
    space: Space,
    settings: SearchSettings,
    place: Path | StudyPlace,
    on_candidate: OnCandidate | None = None,
) -> SearchResult:
    """Search in this process; the study lives in a folder, or in the storage of a `StudyPlace`.

    A search that was killed goes on where it stopped; the result of a finished one is returned.
    `on_candidate` is called once for all lengths that this call scores. Raises QualaError when the
    folder holds another search, and for several workers, which need `run_workers`.
    """
    if settings.workers > 1:
        raise QualaError(
            f"`workers` must be 1 for one evaluator, got {settings.workers}; several need "
            "`run_workers` and a factory of evaluators."
        )
    return _finish(evaluator, space, settings, place, on_candidate)


def run_workers(
    factory: Callable[[], Evaluator],
    space: Space,
    settings: SearchSettings,
    place: Path | StudyPlace,
) -> SearchResult:
    """Search with `settings.workers` processes, each with an evaluator of its own.

    They propose what one process does. The result is the same too, where a score does not depend
    on what is scored beside it, as it does when lengths are stopped early. `factory` must be
    picklable. Raises QualaError when a worker fails; what the others scored is kept.
    """
    context = get_context("spawn")
    arguments = (factory, space, settings, place)
    workers = [context.Process(target=_child, args=arguments) for _ in range(settings.workers)]
    try:
        for process in workers:
            process.start()
        for process in workers:
            process.join()
    finally:  # after a signal; what a worker scored is kept
        for process in workers:
            if process.pid is not None:
                process.terminate()
                process.join()
    failed = [process.exitcode for process in workers if process.exitcode]
    if failed:
        raise QualaError(f"{len(failed)} of {len(workers)} search workers failed: exit {failed}.")
    return _finish(factory(), space, settings, place, None)


def _child(
    factory: Callable[[], Evaluator],
    space: Space,
    settings: SearchSettings,
    place: Path | StudyPlace,
) -> None:
    """Work for a process that ends this one; end with it, should it be killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work(factory(), space, settings, place, None)


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _finish(
    evaluator: Evaluator,
    space: Space,
    settings: SearchSettings,
    place: Path | StudyPlace,
    on_candidate: OnCandidate | None,
) -> SearchResult:
    """Work to the end of a search, leave its study in the folder, and return its result."""
    worker = _work(evaluator, space, settings, place, on_candidate)
    if worker.place.storage is not None:
        export_study(worker.study, worker.place.folder)
    return SearchResult(
        tuple(worker.candidates()),
        cheapest=evaluator.cost(space.lowest),
        dearest=evaluator.cost(space.full),
    )


def _work(
    evaluator: Evaluator,
    space: Space,
    settings: SearchSettings,
    place: Path | StudyPlace,
    on_candidate: OnCandidate | None,
) -> StudyWorker:
    if not isinstance(place, StudyPlace):
        place = StudyPlace(place)
    strategy = build_strategy(settings, space, evaluator.cost)
    sampler = LengthSampler(space, strategy, settings)
    with explained(place.storage):
        study = place.open(sampler, identity=identity_of(space, settings))
        scores = Scores(place.folder, sequence_length=space.sequence_length)
        target = settings.evaluations(strategy)
        worker = StudyWorker(study, space, settings, sampler, target, place, scores)
        if _FINISHED not in study.user_attrs:
            worker.run(evaluator, on_candidate)
            study.set_user_attr(_FINISHED, True)
    return worker
