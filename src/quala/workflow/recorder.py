"""Figures of a stage under way, written to the tracking store."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quala.workflow.context import Candidate
from quala.workflow.store import KIND, PARENT, Store


@dataclass(frozen=True)
class StoreRecorder:
    """Writes metrics in one request each, and candidates as cheap finished child runs."""

    store: Store

    def metrics(self, run_id: str, values: Mapping[str, float], step: int | None) -> None:
        """Record metrics of a run."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(key, float(value), now, step or 0) for key, value in values.items()]
        self.store.client.log_batch(run_id, metrics=entries)

    def candidates(self, run_id: str, candidates: Sequence[Candidate]) -> None:
        """Record the candidates that a run does not have yet, told apart by name."""
        known = self._names(run_id)
        for candidate in candidates:
            if candidate.name in known:
                continue
            known.add(candidate.name)
            tags = {**candidate.tags, KIND: "candidate"}
            run = self.store.create(candidate.name, tags, run_id)
            self.store.record(run.info.run_id, candidate.metrics, candidate.params)
            self.store.finish(run.info.run_id)

    def _names(self, run_id: str) -> set[str]:
        names: set[str] = set()
        page: str | None = None
        while True:
            found = self.store.client.search_runs(
                [self.store.experiment_id],
                filter_string=f"tags.`{PARENT}` = '{run_id}' AND tags.`{KIND}` = 'candidate' "
                "AND attributes.status = 'FINISHED'",
                max_results=1000,
                page_token=page,
            )
            names.update(run.info.run_name for run in found)
            page = found.token
            if not page:
                return names
