"""The experiment that a workflow records its runs in."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quala.durable import settle
from quala.errors import QualaError
from quala.manifest import damage, write_manifest
from quala.process import user_name
from quala.redact import hide_password, recorded, redacted
from quala.stage import Candidate
from quala.workflow.addresses import ARTIFACTS, follow, local_folder
from quala.workflow.database import check_database, database_of, ensure_database
from quala.workflow.server import (
    SERVER,
    check_server,
    chosen_address,
    chosen_experiment,
    connected,
    embedded,
)
from quala.workflow.settings import TrackingConfig
from quala.workflow.tracking import (
    KIND,
    MANIFEST_TAG,
    OUTPUT,
    PARENT,
    Tracking,
    explaining,
    keep_quiet,
)
from quala.workflow.views import OPENED

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Param, Run

LONGEST_TAG = 8000
LONGEST_PARAM = 6000
PARAMS_A_BATCH = 100
"""MLflow's limit."""
TABLES = "mlflow.loggedArtifacts"
"""The tag by which MLflow's interface knows tables."""
CANDIDATES = "candidates.json"
LOOKED_AT = 200
"""Runs of one fingerprint that are looked at: enough for all that were killed or forced."""


@dataclass(frozen=True)
class Store(Tracking):
    """One experiment of one tracking store, and the folder for unfinished work."""

    experiment: str
    experiment_id: str
    work: Path
    folder: Path
    candidate_runs: bool = False
    """Whether candidates of a search become child runs."""
    _whole: dict[str, Path] = field(default_factory=dict)
    """Outputs whose checksums this process has verified."""

    @classmethod
    def open(cls, tracking: TrackingConfig) -> Store:
        """Connect, creating what is missing; raise QualaError if the store cannot be used."""
        folder = Path(tracking.folder).absolute()
        uri = chosen_address(tracking.uri) or embedded(folder)
        experiment = chosen_experiment(tracking.experiment)
        work = Path(tracking.work).absolute() if tracking.work else folder / "work"
        keep_quiet()
        hide_password(uri)
        with explaining(f"The tracking store {uri} cannot be used"):
            if path := database_of(uri):
                ensure_database(path, folder / ARTIFACTS)
                check_database(path)
                follow(path)
            elif uri.startswith(SERVER):
                check_server(uri)
            client = connected(uri)
            experiment_id = _experiment(client, experiment, uri, folder / ARTIFACTS)
        return cls(client, uri, experiment, experiment_id, work, folder, tracking.candidates)

    @property
    def places(self) -> dict[str, Path]:
        """What is written for a run, by what it is for."""
        path = database_of(self.uri)
        return {
            **({"the tracking database": path} if path else {}),
            "unfinished work, see `tracking.work`": self.work,
            "artifacts, see `tracking.folder`": self.folder,
        }

    def follow(self) -> None:
        """Find the artifacts where they are now, whatever another process did to the addresses."""
        if path := database_of(self.uri):
            follow(path)

    def find(self, tags: Mapping[str, str], status: str | None = None) -> list[Run]:
        """Return the newest runs of the experiment that carry `tags`, newest first."""
        return self.find_runs([self.experiment_id], tags, status, newest=LOOKED_AT)

    def create(self, name: str, tags: Mapping[str, str], parent: str | None) -> Run:
        """Create a run that is RUNNING."""
        lineage = {PARENT: parent} if parent else {}
        own = recorded({**tags, **lineage, "mlflow.user": user_name()})
        return self.client.create_run(self.experiment_id, run_name=recorded(name), tags=own)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags, all in one request."""
        from mlflow.entities import RunTag

        entries = [RunTag(key, text[:LONGEST_TAG]) for key, text in recorded(tags).items()]
        self.client.log_batch(run_id, tags=entries)

    def record(
        self,
        run_id: str,
        metrics: Mapping[str, float],
        params: Mapping[str, Any] | None = None,
        *,
        step: int = 0,
    ) -> None:
        """Record metrics and params, in as few requests as the server takes."""
        from mlflow.entities import Param

        texts = [
            Param(key, str(value)[:LONGEST_PARAM]) for key, value in recorded(params or {}).items()
        ]
        first, rest = texts[:PARAMS_A_BATCH], texts[PARAMS_A_BATCH:]
        self.history(run_id, [(key, value, step) for key, value in metrics.items()], first)
        for start in range(0, len(rest), PARAMS_A_BATCH):
            self.client.log_batch(run_id, params=rest[start : start + PARAMS_A_BATCH])

    def history(
        self,
        run_id: str,
        values: Sequence[tuple[str, float, int]],
        params: Sequence[Param] = (),
    ) -> None:
        """Record values of metrics, each with its step, in one request; params join them."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, float(value), now, step) for key, value, step in values]
        self.client.log_batch(run_id, metrics=metrics, params=params)

    def tell(
        self,
        run_id: str,
        metrics: Mapping[str, float],
        series: Sequence[tuple[str, float, int]] = (),
    ) -> None:
        """Record metrics, and values with their steps, but for what a resumed run has already."""
        known = self.client.get_run(run_id).data.metrics
        new = [(key, value, 0) for key, value in metrics.items() if known.get(key) != value]
        self.history(run_id, [*new, *(one for one in series if one[0] not in known)])

    def table(self, run_id: str, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store rows as a table that MLflow's interface draws, and `mlflow.load_table` reads.

        It has a column for each key of a row. A table of that name is replaced; MLflow's own
        `log_table` would append to it.
        """
        columns = list(dict.fromkeys(key for row in rows for key in row))
        data = [[row.get(key) for key in columns] for row in rows]
        text = json.dumps({"columns": columns, "data": data})
        self.attach(run_id, {name: text})
        known = json.loads(self.client.get_run(run_id).data.tags.get(TABLES, "[]"))
        entry = {"path": name, "type": "table"}
        if entry not in known:
            self.tag(run_id, {TABLES: json.dumps([*known, entry])})

    def share(self, file: Path, run_id: str) -> None:
        """Give a run a file of another run, which takes no room of its own in a local store."""
        folder = local_folder(self.client.get_run(run_id).info.artifact_uri)
        if folder is not None:
            place = folder / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            try:
                os.link(file, place)
            except OSError:  # another file system, or one without links
                shutil.copyfile(file, place)
        else:
            self.client.log_artifact(run_id, str(file))

    def candidates(self, run_id: str, candidates: Sequence[Candidate]) -> None:
        """Record candidates as a table; with `tracking.candidates` also as finished child runs.

        A child run that a kill left unfinished is finished, and none is made twice.
        """
        rows = [{"name": one.name, **one.metrics, **one.tags} for one in candidates]
        self.table(run_id, CANDIDATES, rows)
        if not self.candidate_runs:
            return
        runs = self.find_runs([self.experiment_id], {PARENT: run_id, KIND: "candidate"})
        known = {run.info.run_name for run in runs if run.info.status == "FINISHED"}
        begun = {run.info.run_name: run.info.run_id for run in runs}
        for candidate in candidates:
            if candidate.name not in known:
                known.add(candidate.name)
                own = {**candidate.tags, KIND: "candidate"}
                child = begun.get(candidate.name)
                child = child or self.create(candidate.name, own, run_id).info.run_id
                try:
                    self.record(child, candidate.metrics, candidate.params)
                except BaseException:
                    self.finish(child, "KILLED")
                    raise
                self.finish(child)

    def attach(self, run_id: str, texts: Mapping[str, str]) -> None:
        """Attach small text files to a run, by artifact path."""
        with tempfile.TemporaryDirectory() as folder:
            for name, text in texts.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(redacted(text, printed=False), encoding="utf-8")
            self.client.log_artifacts(run_id, folder)

    def publish(self, run_id: str, output: Path) -> None:
        """Store a finished output and make its checksums part of the run."""
        seal = write_manifest(output)
        settle(output)
        local = local_folder(self.client.get_run(run_id).info.artifact_uri)
        try:
            self.client.log_artifacts(run_id, str(output), OUTPUT)
            if local is not None:
                settle(local / OUTPUT)
        except OSError:
            if local is not None:  # a full disk needs the room
                shutil.rmtree(local / OUTPUT, ignore_errors=True)
            raise
        self.tag(run_id, {MANIFEST_TAG: seal})

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        """Give a run its final status."""
        self.client.set_terminated(run_id, status)

    def fetch(self, run: Run) -> tuple[Path, str | None]:
        """Return a stage run's output folder, and the name of a damaged file if there is one."""
        run_id = run.info.run_id
        if run_id in self._whole:
            return self._whole[run_id], None
        seal = run.data.tags.get(MANIFEST_TAG, "")
        cached = self.work / "cache" / run_id
        folder = cached / OUTPUT
        if damage(folder, seal) is not None:
            try:
                folder = self.download(f"runs:/{run_id}/{OUTPUT}", cached)
            except QualaError:
                return folder, OUTPUT
        broken = damage(folder, seal)
        if broken is None:
            self._whole[run_id] = folder
        return folder, broken[0] if broken else None


def _experiment(client: MlflowClient, name: str, uri: str, artifacts: Path) -> str:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    found = client.get_experiment_by_name(name)
    if found is None:
        location = None if uri.startswith(SERVER) else (artifacts / name).as_uri()
        try:
            made = client.create_experiment(name, artifact_location=location, tags=OPENED)
            return str(made)
        except MlflowException:
            # Another process created it in the meantime.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise QualaError(f"The experiment `{name}` was deleted from {uri}: choose another name.")
    with suppress(MlflowException, SQLAlchemyError):  # of a store that may only be read
        for key in OPENED.keys() - found.tags.keys():
            client.set_experiment_tag(found.experiment_id, key, OPENED[key])
    return str(found.experiment_id)
