"""A search on disk: an append-only journal that survives a kill at any moment."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, astuple, dataclass, field, fields
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from quala.errors import QualaError
from quala.lengths import LengthConfig
from quala.process import Process
from quala.search.evaluate import Evaluation, Evaluator
from quala.search.published import MUTATION_PROBABILITY
from quala.search.result import SearchCandidate, SearchResult
from quala.search.sampler import (
    DUPLICATE_OF,
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
    original_of,
)
from quala.search.space import Space
from quala.search.strategy import SearchSettings, build_strategy

log = logging.getLogger(__name__)

STUDY = "search"
IDENTITY = "identity"
_FILE = "study.journal"


def open_study(folder: Path, sampler: BaseSampler, *, identity: Mapping[str, Any]) -> optuna.Study:
    """Open the study of a folder, or create it: maximize the score, minimize the cost.

    Raises QualaError when the folder holds a search with another `identity`.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=open_journal((folder / _FILE).resolve()),
        sampler=sampler,
        study_name=STUDY,
        directions=["maximize", "minimize"],
        load_if_exists=True,
    )
    stored = study.user_attrs.get(IDENTITY)
    if stored is None:
        study.set_user_attr(IDENTITY, dict(identity))
    elif stored != identity:
        changed = sorted(key for key in identity if stored.get(key) != identity[key])
        raise QualaError(
            f"The folder `{folder}` holds a search with other settings ({', '.join(changed)}); "
            "use another folder."
        )
    return study


def open_journal(path: Path) -> JournalStorage:
    """Open the file of a study; what a kill or a power cut left of its end is cut off."""
    _mend(path)
    return JournalStorage(JournalFileBackend(str(path), JournalLock(path)))


class JournalLock(JournalFileSymlinkLock):
    """A lock that the system takes from a process that dies; Optuna's stays for 30 s.

    Raises OSError on a file system without locks.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path.with_name(f"{path.name}.lock")
        if self._path.is_symlink():
            self._path.unlink()  # Optuna's own, left by a killed search of an earlier version

    def acquire(self) -> bool:
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o666)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        os.close(self._descriptor)

    close = release


def _mend(path: Path) -> None:
    """Cut off what Optuna could not read: a last line without an end, or what is no JSON."""
    if not path.exists():
        return
    lock = JournalLock(path)
    lock.acquire()
    with closing(lock), path.open("r+b") as file:
        whole, end = file.read(), 0
        for line in whole.splitlines(keepends=True):
            if not line.endswith(b"\n") or not _is_entry(line):
                break
            end += len(line)
        if end < len(whole):
            # A kill leaves part of one line; more than that is lost after a power cut.
            log.warning("The end of `%s` is torn: the search goes on from before it.", path)
            file.truncate(end)
            os.fsync(file.fileno())


def _is_entry(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def identity_of(space: Space, settings: SearchSettings) -> dict[str, Any]:
    """Return what makes two searches the same, in the form that the study keeps.

    Two keys are kept for studies of earlier versions: `workers`, always 0, since any number may
    go on with a search, and `mutation_probability`, which was an option.
    """
    chosen = {field.name: getattr(settings, field.name) for field in fields(SearchSettings)}
    constant = {"workers": 0, "mutation_probability": MUTATION_PROBABILITY}
    identity = {"space": asdict(space), "settings": {**chosen, **constant}}
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
    _recalled: set[int] = field(default_factory=set)
    _exhausted_at: int = -1

    def run(self, evaluator: Evaluator, on_candidate: OnCandidate | None) -> None:
        """Score batch after batch until the search ends; give back what was not scored."""
        mine = list(astuple(Process.this()))
        try:
            while batch := self._ask():
                self._recall(evaluator)
                found = evaluator.evaluate([lengths for _, lengths in batch])
                for (trial, _), evaluation in zip(batch, found, strict=True):
                    candidate = self._tell(trial, evaluation)
                    if on_candidate:
                        on_candidate(candidate)
        finally:
            self._give_back(lambda trial: trial.user_attrs.get(WORKER) == mine)

    def candidates(self) -> list[SearchCandidate]:
        """Return what was scored, in the order of the slots."""
        done = self._trials(TrialState.COMPLETE)
        done.sort(key=lambda trial: (trial.user_attrs[SLOT], trial.number))
        evaluations = map(self._evaluation, done)
        full = next((one for one in evaluations if not any(one.lengths.drops)), None)
        return [self._candidate(trial, full) for trial in done]

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _ask(self) -> list[Asked]:
        """Return the next lengths to score, none at the end; wait while others work."""
        while True:
            self._give_back(abandoned)
            batch = self._ask_batch()
            if batch or not self._trials(TrialState.RUNNING, TrialState.WAITING):
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
            lengths = self._new_lengths(trial)
            if lengths is not None:
                batch.append((trial, lengths))
            if batch and self.sampler.generation(slot + 1) != self.sampler.generation(slot):
                break
        return batch

    def _ready(self) -> bool:
        """Return whether there are lengths to ask for, and parents to make them from."""
        trials = self._trials()
        if any(trial.state == TrialState.WAITING for trial in trials):
            return True
        slot = free_slot(trials)
        complete = sum(trial.state == TrialState.COMPLETE for trial in trials)
        has_parents = complete > 0 or self.sampler.generation(slot) == 0
        return slot < self.target and has_parents and complete != self._exhausted_at

    def _new_lengths(self, trial: optuna.Trial) -> LengthConfig | None:
        """Return the lengths to score; None when an earlier trial already has them."""
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
        """Give the evaluator what others, or this search before a restart, have scored."""
        news = [t for t in self._trials(TrialState.COMPLETE) if t.number not in self._recalled]
        evaluator.recall([self._evaluation(trial) for trial in news])
        self._recalled.update(trial.number for trial in news)

    def _tell(self, trial: optuna.Trial, found: Evaluation) -> SearchCandidate:
        trial.set_user_attr(EXAMPLES, list(found.examples))
        trial.set_user_attr(STOPPED, found.stopped)
        # A constraint keeps lengths that were stopped early out of `study.best_trials` too.
        trial.set_constraint(STOPPED, float(found.stopped))
        if self.settings.max_cost is not None:
            trial.set_constraint("max_cost", found.cost - self.settings.max_cost)
        if self.settings.min_score is not None:
            trial.set_constraint("min_score", self.settings.min_score - found.score)
        told = self.study.tell(trial, [found.score, found.cost])
        self._recalled.add(told.number)
        return self._candidate(told)

    def _evaluation(self, trial: FrozenTrial) -> Evaluation:
        lengths = LengthConfig(
            tuple(int(trial.params[name]) for name in self.space.names), self.space.sequence_length
        )
        score, cost = trial.values
        attributes = trial.user_attrs
        examples = tuple(attributes[EXAMPLES])
        return Evaluation(lengths, cost, score, attributes[STOPPED], examples)

    def _candidate(self, trial: FrozenTrial, full: Evaluation | None = None) -> SearchCandidate:
        found = self._evaluation(trial)
        limits = {key: value for key, value in trial.constraints.items() if key != STOPPED}
        return SearchCandidate(
            lengths=found.lengths,
            cost=found.cost,
            score=found.score,
            generation=self.sampler.generation(trial.user_attrs[SLOT]),
            origin=trial.user_attrs[ORIGIN],
            examples=len(found.examples),
            stopped_early=found.stopped,
            feasible=all(value <= 0 for value in limits.values()),
            error=found.difference_error(full) if full else None,
        )

    def _give_back(self, dead: Callable[[FrozenTrial], bool]) -> None:
        """Fail the running trials of dead workers and put their lengths back into the queue."""
        trials = self._trials()
        retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        for trial in trials:
            if trial.state != TrialState.RUNNING or not dead(trial):
                continue
            lengths, attributes = lengths_of(trial, self.space), trial.user_attrs
            # Queued before the trial fails: a kill in between must not lose the lengths.
            if lengths is not None and EXHAUSTED not in attributes and trial.number not in retried:
                kept = {SLOT: attributes[SLOT], ORIGIN: attributes[ORIGIN]}
                self.study.enqueue_trial(
                    self.space.to_params(lengths), user_attrs={**kept, RETRY_OF: trial.number}
                )
            self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


_FINISHED = "finished"


def run_search(
    evaluator: Evaluator,
    space: Space,
    settings: SearchSettings,
    storage_path: Path,
    on_candidate: OnCandidate | None = None,
) -> SearchResult:
    """Search in this process; the study lives in the folder `storage_path`.

    A search that was killed goes on where it stopped; the result of a finished one is returned.
    `on_candidate` is called once for all lengths that this call scores. Raises QualaError when the
    folder holds another search, and for several workers, which need `run_workers`.
    """
    if settings.workers > 1:
        raise QualaError(
            f"`workers` must be 1 for one evaluator, got {settings.workers}; several need "
            "`run_workers` and a factory of evaluators."
        )
    return _work(evaluator, space, settings, storage_path, on_candidate)


def run_workers(
    factory: Callable[[], Evaluator], space: Space, settings: SearchSettings, storage_path: Path
) -> SearchResult:
    """Search with `settings.workers` processes, each with an evaluator of its own.

    `factory` must be picklable. Raises QualaError when a worker fails; what the others scored is
    kept.
    """
    context = get_context("spawn")
    arguments = (factory, space, settings, storage_path)
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
    return _work(factory(), space, settings, storage_path, None)


def worker(
    factory: Callable[[], Evaluator], space: Space, settings: SearchSettings, storage_path: Path
) -> None:
    """Join the search in a folder, also from another machine on the same disk, until it ends."""
    _work(factory(), space, settings, storage_path, None)


def _child(
    factory: Callable[[], Evaluator], space: Space, settings: SearchSettings, storage_path: Path
) -> None:
    """Work for a process that ends this one; end with it, should it be killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal
    threading.Thread(target=_end_with_parent, daemon=True).start()
    worker(factory, space, settings, storage_path)


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _work(
    evaluator: Evaluator,
    space: Space,
    settings: SearchSettings,
    storage_path: Path,
    on_candidate: OnCandidate | None,
) -> SearchResult:
    strategy = build_strategy(settings, space, evaluator.cost)
    sampler = LengthSampler(space, strategy, settings)
    study = open_study(Path(storage_path), sampler, identity=identity_of(space, settings))
    worker = StudyWorker(study, space, settings, sampler, settings.evaluations(strategy))
    if _FINISHED not in study.user_attrs:
        worker.run(evaluator, on_candidate)
        study.set_user_attr(_FINISHED, True)
    return SearchResult(
        tuple(worker.candidates()),
        cheapest=evaluator.cost(space.lowest),
        dearest=evaluator.cost(space.full),
    )
