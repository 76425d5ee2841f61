"""The search's clock: what lengths cost in milliseconds in the runtime that will serve them."""

from __future__ import annotations

import json
import statistics
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quala.runtime.engine import Engine, Facts
from quala.runtime.hardware import processor
from quala.runtime.latency_model import LatencyModel, measure_latency_model, time_cases
from quala.runtime.session import model_engine
from quala.stages.files import write_whole

if TYPE_CHECKING:
    from quala.search.result import SearchResult
    from quala.stages.checkpoint import Opened
    from quala.stages.config import SearchConfig

FILE = "latency.json"
REPEATS = 5
INPUTS = 12


def token_counts(opened: Opened) -> list[int]:
    """Return the tokens of the search slice's inputs, over which costs are averaged."""
    features = opened.data.search.features
    counts: list[int] = features.lengths.tolist()
    return counts if opened.pad_to is None else [opened.pad_to] * len(counts)


class Clock:
    """Measures the exported model before a search, and its front afterwards."""

    def __init__(self, config: SearchConfig, opened: Opened) -> None:
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
        return model_engine(
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
