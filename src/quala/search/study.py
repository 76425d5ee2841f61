"""The study on disk: an append-only journal that survives a kill at any moment."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from quala.errors import QualaError, unknown
from quala.lengths import LengthConfig
from quala.process import Process
from quala.search.bayesian import Bayesian
from quala.search.evaluate import Evaluator, EvaluatorFactory, OnCandidate, Scored
from quala.search.guided import Guided
from quala.search.published import Published
from quala.search.result import Candidate, SearchResult
from quala.search.sampler import (
    DUPLICATE_OF,
    EXAMPLES,
    EXHAUSTED,
    ORIGIN,
    RETRY_OF,
    SLOT,
    STOPPED,
    WORKER,
    EvolutionarySampler,
    abandoned,
    free_slot,
    lengths_of,
    original_of,
)
from quala.search.space import Space
from quala.search.strategy import Acceptance, Cost, Strategy

STUDY = "search"
IDENTITY = "identity"
_FILE = "study.journal"


def open_study(folder: Path, sampler: BaseSampler, *, identity: Mapping[str, Any]) -> optuna.Study:
    """Open the study of a folder, or create it: maximize the score, minimize the cost.

    Raises QualaError when the folder holds a search with another `identity`.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    path = (folder / _FILE).resolve()
    _mend(path)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
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


def _mend(path: Path) -> None:
    """Cut off a last line that its writer was killed in: Optuna could not read past it."""
    if not path.exists():
        return
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        with path.open("r+b") as file:
            whole = file.read()
            if not whole.endswith(b"\n"):
                file.truncate(whole.rfind(b"\n") + 1)
    finally:
        lock.release()


StrategyName = Literal["quala", "published", "bayesian"]


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How long to search and by which strategy.

    A generation has `mutations + crossovers` genes; only `published` tells the two apart. The
    first `population` genes of `bayesian` after both ends are random. The search ends after
    `generations`, or after `max_evaluations` if that comes first. Points above `max_cost` are not
    evaluated, points below `min_score` are on no front. Raises QualaError for sizes that make no
    search.
    """

    strategy: StrategyName = "quala"
    generations: int = 16
    population: int = 20
    mutations: int = 6
    crossovers: int = 4
    mutation_probability: float = 0.5
    max_evaluations: int | None = None
    max_cost: float | None = None
    min_score: float | None = None
    seed: int = 1
    workers: int = 1

    def __post_init__(self) -> None:
        if self.strategy not in get_args(StrategyName):
            raise unknown("search strategy", self.strategy, get_args(StrategyName))
        if self.generations < 0 or self.population < 0 or self.workers < 1:
            raise QualaError(
                "`generations` and `population` must not be negative and `workers` at least 1, "
                f"got {self.generations}, {self.population}, {self.workers}."
            )
        if min(self.mutations, self.crossovers) < 0 or self.mutations + self.crossovers < 1:
            raise QualaError(
                "`mutations` and `crossovers` must add up to at least 1, "
                f"got {self.mutations} and {self.crossovers}."
            )
        if self.max_evaluations is not None and self.max_evaluations < 1:
            raise QualaError(f"`max_evaluations` must be positive, got {self.max_evaluations}.")

    def evaluations(self, strategy: Strategy) -> int:
        """Return how many genes the whole search evaluates."""
        planned = len(strategy.seeds()) + self.generations * strategy.generation_size
        return planned if self.max_evaluations is None else min(planned, self.max_evaluations)


def build_strategy(settings: SearchSettings, space: Space, cost: Cost) -> Strategy:
    """Return the strategy that the settings name."""
    dearest = cost(space.full)
    if settings.max_cost is not None:
        dearest = min(dearest, settings.max_cost)
    accept = Acceptance(cost, cheapest=cost(space.lowest), dearest=dearest)
    size = settings.mutations + settings.crossovers
    if settings.strategy == "quala":
        return Guided(space, accept, population=settings.population, generation_size=size)
    if settings.strategy == "bayesian":
        return Bayesian(
            space,
            accept,
            startup=settings.population,
            generation_size=size,
            min_score=settings.min_score,
        )
    return Published(
        space,
        accept,
        population=settings.population,
        mutations=settings.mutations,
        crossovers=settings.crossovers,
        probability=settings.mutation_probability,
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
            mine = list(astuple(Process.this()))
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


_FINISHED = "finished"


def run_search(
    evaluator: Evaluator,
    space: Space,
    settings: SearchSettings,
    storage_path: Path,
    on_candidate: OnCandidate | None = None,
) -> SearchResult:
    """Search in this process; the study lives in the folder `storage_path`.

    A search that was killed goes on where it stopped, a finished one is returned as it is.
    `on_candidate` is called once for each gene that this call scores. Raises QualaError when the
    folder holds another search, and for several workers, which need `run_workers`.
    """
    if settings.workers > 1:
        raise QualaError(
            f"`workers` must be 1 for one evaluator, got {settings.workers}; several need "
            "`run_workers` and a factory of evaluators."
        )
    return _work(evaluator, space, settings, storage_path, on_candidate)


def run_workers(
    factory: EvaluatorFactory,
    space: Space,
    settings: SearchSettings,
    storage_path: Path,
    on_candidate: OnCandidate | None = None,
) -> SearchResult:
    """Search with `settings.workers` processes, each with an evaluator of its own.

    `factory` must be picklable. `on_candidate` is called for every gene at the end. Raises
    QualaError when a worker fails; what the others scored is kept.
    """
    context = get_context("spawn")
    arguments = (factory, space, settings, storage_path)
    workers = [context.Process(target=worker, args=arguments) for _ in range(settings.workers)]
    for process in workers:
        process.start()
    for process in workers:
        process.join()
    failed = [process.exitcode for process in workers if process.exitcode]
    if failed:
        raise QualaError(f"{len(failed)} of {len(workers)} search workers failed: exit {failed}.")
    result = _work(factory(), space, settings, storage_path, None)
    if on_candidate:
        for candidate in result.candidates:
            on_candidate(candidate)
    return result


def worker(
    factory: EvaluatorFactory, space: Space, settings: SearchSettings, storage_path: Path
) -> None:
    """Join the search in a folder, also from another machine on the same disk, until it ends."""
    _work(factory(), space, settings, storage_path, None)


def _work(
    evaluator: Evaluator,
    space: Space,
    settings: SearchSettings,
    storage_path: Path,
    on_candidate: OnCandidate | None,
) -> SearchResult:
    strategy = build_strategy(settings, space, evaluator.cost)
    sampler = EvolutionarySampler(space, strategy, seed=settings.seed)
    fields = {"space": asdict(space), "settings": {**asdict(settings), "workers": 0}}
    identity = json.loads(json.dumps(fields))
    study = open_study(Path(storage_path), sampler, identity=identity)
    session = Session(study, space, settings, sampler, settings.evaluations(strategy))
    if _FINISHED not in study.user_attrs:
        with session:
            session.run(evaluator, on_candidate)
        study.set_user_attr(_FINISHED, True)
    return SearchResult(
        tuple(session.candidates()),
        cheapest=evaluator.cost(space.lowest),
        dearest=evaluator.cost(space.full),
    )
