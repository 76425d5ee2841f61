"""The experiment that a workflow records its runs in."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from quala.durable import settle
from quala.errors import QualaError
from quala.manifest import damage, write_manifest
from quala.process import user_name
from quala.redact import hide_password, recorded, redacted
from quala.stage import Candidate
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

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LONGEST_TAG = 8000
LOOKED_AT = 200
"""Runs of one fingerprint that are looked at: enough for all that were killed or forced."""


@dataclass(frozen=True)
class Store(Tracking):
    """One experiment of one tracking store, and the folder for unfinished work."""

    experiment: str
    experiment_id: str
    work: Path
    folder: Path
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
                ensure_database(path, folder / "artifacts")
                check_database(path)
            elif uri.startswith(SERVER):
                check_server(uri)
            client = connected(uri)
            experiment_id = _experiment(client, experiment, uri, folder / "artifacts")
        return cls(client, uri, experiment, experiment_id, work, folder)

    @property
    def places(self) -> dict[str, Path]:
        """What is written for a run, by what it is for."""
        path = database_of(self.uri)
        return {
            **({"the tracking database": path} if path else {}),
            "unfinished work, see `tracking.work`": self.work,
            "artifacts, see `tracking.folder`": self.folder,
        }

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
        """Record metrics and params, all in one request."""
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        self.client.log_batch(
            run_id,
            metrics=[Metric(key, float(value), now, step) for key, value in metrics.items()],
            params=[Param(key, str(value)) for key, value in recorded(params or {}).items()],
        )

    def candidates(self, run_id: str, candidates: Sequence[Candidate]) -> None:
        """Record each candidate whose name the run does not have yet as a finished child run.

        A child run that a kill left unfinished is finished.
        """
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
        address = urlsplit(self.client.get_run(run_id).info.artifact_uri)
        local = Path(url2pathname(address.path)) if address.scheme == "file" else None
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

    found = client.get_experiment_by_name(name)
    if found is None:
        location = None if uri.startswith(SERVER) else (artifacts / name).as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            # Another process created it in the meantime.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise QualaError(f"The experiment `{name}` was deleted from {uri}: choose another name.")
    return str(found.experiment_id)
