"""The search stage: the lengths that give the most accuracy for each cost."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quala.checkpoint import Checkpoint, ensure_tuned, load_with_data
from quala.compress.prune.structured import units_of
from quala.compress.quantize.sites import check_drops
from quala.cost import mean_macs, padded_macs
from quala.data.spec import DataSpec
from quala.durable import read_whole, write_whole
from quala.errors import QualaError
from quala.lengths import MIN_TOKENS, Layers, LengthConfig, constant_drop, layers_name
from quala.report.figure import draw_history
from quala.runtime.engine import Engine, open_model
from quala.runtime.hardware import processor
from quala.runtime.latency_model import LatencyModel, measure_latency_model, time_cases
from quala.search.evaluate import SharedEvaluator, TaskScoring, cut_chunks
from quala.search.result import RESULT, SearchResult
from quala.search.space import Space
from quala.search.study import StudyPlace, run_search, run_workers
from quala.stage import Candidate

if TYPE_CHECKING:
    from quala.search.result import SearchCandidate
    from quala.stage import StageContext
    from quala.stages.result_options import SearchConfig


FILE, STUDY = "latency.json", "study"
REPEATS = 5
"""Runs behind each time; their median counts. Chosen by hand."""
INPUTS = 12
"""Inputs, evenly spaced in length, on which each point of the front is timed; chosen by hand."""


def searched_tokens(opened: Checkpoint) -> list[int]:
    """Return the tokens of the search slice's inputs, over which costs are averaged."""
    features = opened.data.search.features
    counts: list[int] = features.lengths.tolist()
    return counts if opened.pad_to is None else [opened.pad_to] * len(counts)


@dataclass(frozen=True)
class Clock:
    """The exported model, timed before a search and again for its front."""

    engine: Engine
    models: Mapping[Layers, LatencyModel]
    """By the structure, the whole model first."""
    words: int
    """The size of the vocabulary."""

    @classmethod
    def start(cls, config: SearchConfig, opened: Checkpoint, scratch: Path) -> Clock:
        """Open the model and time it; a resumed search keeps the times that it began with."""
        layers, longest = opened.model.num_layers, opened.data.spec.max_length
        structures = opened.model.structures or [()]
        engine = open_model(
            config.runtime, opened.model, sequence_length=longest, threads=config.threads
        )
        file = scratch / FILE
        if read_whole(file) is None:
            # Costs that a search has so far, if any, came from other times.
            shutil.rmtree(scratch / STUDY, ignore_errors=True)
            timing = {
                "runtime": config.runtime,
                "threads": config.threads,
                "precision": opened.precision,
                "batch": 1,
                "processor": processor(),
            }
            full = LengthConfig.full(layers=layers, sequence_length=longest)
            found = [
                measure_latency_model(
                    engine,
                    full,
                    seed=config.seed,
                    repeats=REPEATS,
                    timing=timing,
                    layers=own,
                    words=opened.model.arch.vocabulary,
                )
                for own in structures
            ]
            texts = [model.to_json() for model in found]
            write_whole(file, texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]")
        kept = read_whole(file)
        facts = kept if isinstance(kept, list) else [kept]
        models = [LatencyModel.from_json(json.dumps(one)) for one in facts]
        known = dict(zip(structures, models, strict=True))
        return cls(engine, known, opened.model.arch.vocabulary)

    def verify(
        self, result: SearchResult, tokens: Sequence[int], output: Path
    ) -> dict[str, float]:
        """Time the front at quantiles of `tokens`; write latency.json and return the errors."""
        places = np.linspace(0.04, 0.96, INPUTS)
        counts = np.quantile(tokens, places, method="nearest").tolist()
        cases = [(point.lengths, count) for point in result.front for count in counts]
        taken, conditions = time_cases(self.engine, cases, repeats=REPEATS, words=self.words)
        times = iter(taken)
        points: list[dict[str, object]] = []
        errors = []
        for point in result.front:
            measured = statistics.mean(next(times) for _ in counts)
            predicted = latency(self.models, point.lengths, counts=counts)
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
        named = {layers_name(k): json.loads(m.to_json()) for k, m in self.models.items() if k}
        facts = {
            "model": json.loads(self.models[()].to_json()),
            **({"structures": named} if named else {}),
            "front": points,
            "error_median": error,
            "conditions": asdict(conditions),
        }
        (output / FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        return {"search/latency_error_median": error, "search/latency_fit_error": self.fit_error}

    @property
    def fit_error(self) -> float:
        """The largest median error of the fits."""
        return max(model.error for model in self.models.values())


def latency(
    models: Mapping[Layers, LatencyModel], lengths: LengthConfig, *, counts: Sequence[int]
) -> float:
    """Return the predicted mean milliseconds of inputs of these token counts."""
    return models[lengths.layers].mean(lengths, counts)


GIGA = 1e9


def macs_cost(opened: Checkpoint, lengths: LengthConfig) -> float:
    """Return GMACs: of a padded input under `reference`, the search slice's mean otherwise."""
    model = opened.model
    if opened.pad_to is not None:
        return padded_macs(model.arch, lengths) / GIGA
    return mean_macs(model.arch, lengths, opened.data.search.features.lengths) / GIGA


@dataclass(frozen=True)
class EvaluatorFactory:
    """Makes an evaluator from a checkpoint; picklable, so that a worker can make its own."""

    model: Path
    data: DataSpec
    config: SearchConfig
    significance: str
    models: Mapping[Layers, LatencyModel] | None = None

    def __call__(self) -> SharedEvaluator:
        opened = load_with_data(self.model, self.data, significance=self.significance)
        return self.evaluator(opened)

    def evaluator(self, opened: Checkpoint) -> SharedEvaluator:
        """Return the evaluator of a model that is open already."""
        config, part = self.config, opened.data.search
        if not part.examples:
            raise QualaError("The search slice is empty: `data.search_size` must be above 0.")
        ensure_tuned(opened, batch_size=config.batch_size)
        chunks = cut_chunks(
            part,
            examples=config.chunk,
            batch_size=config.batch_size,
            seed=config.seed,
            pad_to=opened.pad_to,
        )
        if self.models is None:
            cost = partial(macs_cost, opened)
        else:
            cost = partial(latency, self.models, counts=searched_tokens(opened))
        return SharedEvaluator(
            opened.model,
            chunks,
            TaskScoring(opened.data, part),
            cost,
            patience=config.patience,
            cache_bytes=config.cache_mebibytes * 2**20,
        )


def run(
    config: SearchConfig, context: StageContext, inputs: Mapping[str, Any]
) -> dict[str, float]:
    """Search the lengths of `model`; the output is search.json, the study and a figure."""
    opened = load_with_data(inputs["model"], inputs["data"])
    check_drops(opened.model.hf)
    clock = Clock.start(config, opened, context.scratch) if config.cost == "latency" else None
    ranking, times = opened.model.significance.name, clock.models if clock else None
    factory = EvaluatorFactory(inputs["model"], inputs["data"], config, ranking, times)
    layers, longest = opened.model.num_layers, opened.data.spec.max_length
    lower = constant_drop(config.floor, layers=layers, sequence_length=longest)
    own = tuple(opened.model.structures[1:])
    units = units_of(opened.model.hf) if own else ()
    # Nothing may be dropped: then only the structures are searched.
    floor = longest if own and not config.floor else MIN_TOKENS
    space = Space(
        layers, longest, floor=floor, step=config.step, lower=lower, structures=own, units=units
    )
    metric = opened.data.task.metric
    place = study_place(config, context, metric)

    def priced(found: SearchCandidate) -> SearchCandidate:
        """Return the candidate with its GMACs, where the cost is in milliseconds."""
        return replace(found, gmacs=macs_cost(opened, found.lengths)) if clock else found

    with context.progress("search: lengths", config.max_evaluations) as progress:

        def record(found: SearchCandidate) -> None:
            progress.advance()

        if config.workers > 1:
            result = run_workers(factory, space, config, place)
        else:
            result = run_search(factory.evaluator(opened), space, config, place, record)
    result = replace(
        result,
        candidates=tuple(map(priced, result.candidates)),
        unit="ms" if clock else "gmacs",
    )
    context.log_candidates([_as_run(found, metric) for found in result.candidates])
    if not result.front:
        raise QualaError(
            f"No lengths meet max_cost={config.max_cost} and min_score={config.min_score}; the "
            f"cheapest tried cost {result.cheapest:.3f} {result.unit}."
        )
    (context.output / RESULT).write_text(result.to_json() + "\n", encoding="utf-8")
    shutil.copytree(place.folder, context.output / STUDY, ignore=shutil.ignore_patterns("*.lock"))
    draw_history(result, context.output / "history.png", metric=metric)
    verified = clock.verify(result, searched_tokens(opened), context.output) if clock else {}
    return verified | {
        "search/hypervolume": result.hypervolume,
        "search/candidates": float(len(result.candidates)),
        "search/stopped_early": float(sum(item.stopped_early for item in result.candidates)),
        "search/front_points": float(len(result.front)),
    }


def study_place(config: SearchConfig, context: StageContext, metric: str) -> StudyPlace:
    """Return where the study is, with what its readers want to know of the search."""
    command = context.provenance.get("command", "")
    workflow = command.split()[2] if command else "quala"
    told = {
        "command": command,
        "run": context.run_id,
        "data": context.provenance.get("data"),
        "cost": "measured milliseconds" if config.cost == "latency" else "GMACs",
        "max_cost": config.max_cost,
        "min_score": config.min_score,
    }
    return StudyPlace(
        context.scratch / STUDY,
        config.storage,
        name=f"{workflow} {context.name}",
        metrics=(metric, "milliseconds" if config.cost == "latency" else "gmacs"),
        facts={key: value for key, value in told.items() if value},
    )


def _as_run(found: SearchCandidate, metric: str) -> Candidate:
    if found.gmacs is None:
        costs = {"gmacs": found.cost}
    else:
        costs = {"gmacs": found.gmacs, "latency_ms": found.cost}
    return Candidate(
        name=str(found.lengths),
        metrics={metric: found.score, "examples": float(found.examples), **costs},
        params={
            "lengths": str(found.lengths.whole),
            **({"layers": layers_name(found.lengths.layers)} if found.lengths.layers else {}),
        },
        tags={
            "generation": str(found.generation),
            "origin": found.origin,
            "stopped_early": json.dumps(found.stopped_early),
        },
    )
