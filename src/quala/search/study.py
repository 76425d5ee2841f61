"""The search itself, resumable and parallel: one folder holds one study."""

from __future__ import annotations

import json
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

from quala.errors import QualaError
from quala.search.journal import open_study
from quala.search.result import SearchResult
from quala.search.sampler import EvolutionarySampler
from quala.search.scored import Evaluator, EvaluatorFactory, OnCandidate
from quala.search.session import Session
from quala.search.settings import SearchSettings, build_strategy
from quala.search.space import Space

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
