"""The search's clock: what lengths cost in milliseconds in the runtime that will serve them."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quala.checkpoint import TaskCheckpoint, load_with_data
from quala.cost import macs, mean_macs
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.lengths import LengthConfig, constant_drop
from quala.report.figure import draw_history
from quala.runtime.engine import Engine, Facts, open_model
from quala.runtime.hardware import processor
from quala.runtime.latency_model import LatencyModel, measure_latency_model, time_cases
from quala.search.evaluate import SharedEvaluator, TaskScoring, cut_chunks
from quala.search.result import SearchResult
from quala.search.space import Space
from quala.search.study import run_search, run_workers
from quala.stage import Candidate, write_whole

if TYPE_CHECKING:
    from quala.search.result import SearchCandidate
    from quala.stage import StageContext
    from quala.stages.options import SearchConfig


FILE = "latency.json"
REPEATS = 5
INPUTS = 12


def token_counts(opened: TaskCheckpoint) -> list[int]:
    """Return the tokens of the search slice's inputs, over which costs are averaged."""
    features = opened.data.search.features
    counts: list[int] = features.lengths.tolist()
    return counts if opened.pad_to is None else [opened.pad_to] * len(counts)


class Clock:
    """Measures the exported model before a search, and its front afterwards."""

    def __init__(self, config: SearchConfig, opened: TaskCheckpoint) -> None:
        self._config = config
        self._opened = opened

    def model(self, scratch: Path) -> LatencyModel:
        """Return the latency model; a resumed search goes on with the one it began with."""
        file = scratch / FILE
        if not file.exists():
            write_whole(file, self._measured().to_json())
        return LatencyModel.from_json(file.read_text(encoding="utf-8"))

    def verify(self, result: SearchResult, model: LatencyModel, output: Path) -> dict[str, float]:
        """Time the front on inputs of the slice; write latency.json and return the errors."""
        counts = np.quantile(
            token_counts(self._opened), np.linspace(0.04, 0.96, INPUTS), method="nearest"
        ).tolist()
        cases = [(point.lengths, count) for point in result.front for count in counts]
        times = iter(time_cases(self._engine, cases, repeats=REPEATS))
        points: list[dict[str, object]] = []
        errors = []
        for point in result.front:
            measured = statistics.mean(next(times) for _ in counts)
            predicted = model.mean(point.lengths, counts)
            errors.append(predicted / measured - 1)
            points.append(
                {
                    "lengths": str(point.lengths),
                    "predicted_ms": predicted,
                    "measured_ms": measured,
                    "error": errors[-1],
                }
            )
        error = statistics.median(map(abs, errors))
        facts = {"model": json.loads(model.to_json()), "front": points, "error_median": error}
        (output / FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        return {"search/latency_error_median": error, "search/latency_fit_error": model.error}

    @cached_property
    def _engine(self) -> Engine:
        return open_model(
            self._config.runtime,
            self._opened.model,
            sequence_length=self._opened.data.spec.max_length,
            threads=self._config.threads,
        )

    def _measured(self) -> LatencyModel:
        timing = {
            "runtime": self._config.runtime,
            "threads": self._config.threads,
            "precision": self._opened.precision,
            "batch": 1,
            "processor": processor(),
        }
        facts = Facts.of(self._opened.model.arch, self._opened.data.spec.max_length)
        return measure_latency_model(
            self._engine, facts, seed=self._config.seed, repeats=REPEATS, timing=timing
        )


RESULT = "search.json"
GIGA = 1e9


def macs_cost(opened: TaskCheckpoint, lengths: LengthConfig) -> float:
    """Return GMACs: of a padded input under `reference`, the search slice's mean otherwise."""
    model = opened.model
    if opened.pad_to is not None:
        return macs(model.arch, lengths.lengths, opened.pad_to) / GIGA
    return mean_macs(model.arch, lengths, opened.data.search.features.lengths) / GIGA


@dataclass(frozen=True)
class EvaluatorFactory:
    """Makes an evaluator from a checkpoint; picklable, so that a worker can make its own."""

    model: Path
    data: DataSpec
    config: SearchConfig
    latency: LatencyModel | None = None

    def __call__(self) -> SharedEvaluator:
        return self.evaluator(load_with_data(self.model, self.data))

    def evaluator(self, opened: TaskCheckpoint) -> SharedEvaluator:
        """Return the evaluator of a model that is open already."""
        config, part = self.config, opened.data.search
        if not part.examples:
            raise QualaError("The search slice is empty: `data.search_size` must be above 0.")
        chunks = cut_chunks(
            part,
            examples=config.chunk,
            batch_size=config.batch_size,
            seed=config.seed,
            pad_to=opened.pad_to,
        )
        return SharedEvaluator(
            opened.model,
            chunks,
            TaskScoring(opened.data, part),
            lambda lengths: self.cost(opened, lengths),
            patience=config.patience,
            cache_bytes=config.cache_mebibytes * 2**20,
        )

    def cost(self, opened: TaskCheckpoint, lengths: LengthConfig) -> float:
        """Return the slice's mean cost, in milliseconds where a latency model is there."""
        if self.latency is None:
            return macs_cost(opened, lengths)
        return self.latency.mean(lengths, token_counts(opened))


def run(
    config: SearchConfig, context: StageContext, inputs: Mapping[str, Any]
) -> dict[str, float]:
    """Search the lengths of `model`; the output is search.json, the study and a figure."""
    opened = load_with_data(inputs["model"], inputs["data"])
    clock = Clock(config, opened) if config.cost == "latency" else None
    latency = clock.model(context.scratch) if clock else None
    factory = EvaluatorFactory(inputs["model"], inputs["data"], config, latency)
    space = _space(config, opened)
    metric = opened.data.task.metric
    folder = context.scratch / "study"

    def priced(found: SearchCandidate) -> SearchCandidate:
        """Note the GMACs beside a cost in milliseconds."""
        return replace(found, gmacs=macs_cost(opened, found.lengths)) if clock else found

    with context.progress("search: lengths", config.max_evaluations) as progress:

        def record(found: SearchCandidate) -> None:
            progress.advance()
            context.log_candidates([_as_run(priced(found), metric)])

        if config.workers > 1:
            result = run_workers(factory, space, config, folder, record)
        else:
            result = run_search(factory.evaluator(opened), space, config, folder, record)
    result = replace(
        result,
        candidates=tuple(map(priced, result.candidates)),
        unit="ms" if clock else "gmacs",
    )
    # A kill may have come between a score and its run; runs that exist are left alone.
    context.log_candidates([_as_run(found, metric) for found in result.candidates])
    if not result.front:
        raise QualaError(
            f"No lengths meet max_cost={config.max_cost} and min_score={config.min_score}; the "
            f"cheapest tried cost {result.cheapest:.3f} {result.unit}."
        )
    (context.output / RESULT).write_text(result.to_json() + "\n", encoding="utf-8")
    shutil.copytree(folder, context.output / "study")
    draw_history(result, context.output / "history.png", metric=metric)
    verified = clock.verify(result, latency, context.output) if clock and latency else {}
    return verified | {
        "search/hypervolume": result.hypervolume,
        "search/candidates": float(len(result.candidates)),
        "search/stopped_early": float(sum(item.stopped_early for item in result.candidates)),
        "search/front_points": float(len(result.front)),
    }


def read_result(folder: Path) -> SearchResult:
    """Read what a search stage left."""
    return SearchResult.from_json((folder / RESULT).read_text(encoding="utf-8"))


def _space(config: SearchConfig, opened: TaskCheckpoint) -> Space:
    layers, longest = opened.model.num_layers, opened.data.spec.max_length
    lower = constant_drop(config.floor, layers=layers, sequence_length=longest)
    return Space(layers=layers, sequence_length=longest, step=config.step, lower=lower)


def _as_run(found: SearchCandidate, metric: str) -> Candidate:
    return Candidate(
        name=str(found.lengths),
        metrics=_figures(found, metric),
        params={"lengths": str(found.lengths)},
        tags={
            "generation": str(found.generation),
            "origin": found.origin,
            "stopped_early": json.dumps(found.stopped_early),
        },
    )


def _figures(found: SearchCandidate, metric: str) -> dict[str, float]:
    figures = {metric: found.score, "examples": float(found.examples)}
    if found.gmacs is None:
        return figures | {"gmacs": found.cost}
    return figures | {"gmacs": found.gmacs, "latency_ms": found.cost}
