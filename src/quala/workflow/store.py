"""The tracking store: the one place that talks to MLflow."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from quala.durable import settle
from quala.errors import QualaError
from quala.manifest import damage, write_manifest
from quala.process import user_name
from quala.redact import hide_password, recorded, redacted
from quala.stage import Candidate
from quala.workflow.database import (
    SQLITE,
    check_database,
    database_of,
    ensure_database,
    patient_client,
)
from quala.workflow.settings import SERVER, TrackingConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


log = logging.getLogger(__name__)
SECONDS_TO_ANSWER = 3.0


def existing_store(uri: str | None) -> str:
    """Return the address of a store that exists, by default that of `quala run` in this folder.

    Raises:
        QualaError: when nothing was tracked there yet, or no server answers.
    """
    uri = uri or f"{SQLITE}{Path.cwd() / 'mlruns' / 'mlflow.db'}"
    if path := database_of(uri):
        if not path.is_file():
            raise QualaError(
                f"There is no tracking store at {uri} yet: `quala run` in this folder makes one, "
                "`--tracking-uri` selects another."
            )
        check_database(path)
    if uri.startswith(SERVER):
        check_server(uri)
    return uri


@contextmanager
def explaining(sentence: str) -> Iterator[None]:
    """Raise QualaError with the sentence and the reason when MLflow or the disk fails."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:  # of a driver
        reason = str(error).strip().partition("\n")[0]
        raise QualaError(f"{sentence}: {reason}") from error


def check_server(uri: str) -> None:
    """Raise QualaError quickly if nothing answers at an http(s) tracking address."""
    try:
        parts = urlsplit(uri)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise QualaError(f"The tracking server {uri} does not answer ({error}).") from error
    except ValueError as error:  # which may quote a part of a password
        raise QualaError(f"The tracking server {uri} has no port that is a number.") from error


KIND = "quala.kind"
FINGERPRINT = "quala.fingerprint"
STAGE = "quala.stage"
NODE = "quala.node"
PARENT = "mlflow.parentRunId"
MANIFEST_TAG = "quala.manifest"
DAMAGED = "quala.damaged"
ERROR = "quala.error"
OUTPUT = "output"
RUNS_A_PAGE = 1000
"""MLflow's servers refuse much larger pages."""
LOOKED_AT = 200
"""Runs of one fingerprint that are looked at: enough for all that were killed or forced."""
QUIET = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
LONGEST_TAG = 8000


@dataclass(frozen=True)
class Tracking:
    """One tracking store with all its experiments: runs, artifacts and registered models."""

    client: MlflowClient
    uri: str

    @classmethod
    def connect(cls, uri: str | None) -> Tracking:
        """Connect to a store that exists, by default that of this folder. Raises QualaError."""
        hide_password(uri or "")
        uri = existing_store(uri)
        keep_quiet()
        # mlflow takes seconds to import
        from mlflow import MlflowClient

        with explaining(f"The tracking store {uri} cannot be read"):
            return Tracking(
                patient_client(lambda: MlflowClient(tracking_uri=uri, registry_uri=uri), uri), uri
            )

    def find_runs(
        self,
        experiments: Sequence[str],
        tags: Mapping[str, str],
        status: str | None = None,
        *,
        newest: int | None = None,
    ) -> list[Run]:
        """Return the runs of some experiments that carry `tags`, newest first.

        `newest` limits their number; without it all pages are read.
        """
        terms = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        if status:
            terms.append(f"attributes.status = '{status}'")
        found: list[Run] = []
        page: str | None = None
        while page != "":
            runs = self.client.search_runs(
                list(experiments),
                filter_string=" AND ".join(terms),
                max_results=newest or RUNS_A_PAGE,
                order_by=["attributes.start_time DESC"],
                page_token=page,
            )
            found += runs
            page = "" if newest else runs.token or ""
        return found

    def experiment_ids(self) -> dict[str, str]:
        """Return the ids of all experiments by name. Raises QualaError for an unreadable store."""
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.search_experiments()
        except MlflowException as error:
            reason = str(error.message).partition("\n")[0]
            raise QualaError(f"The tracking store {self.uri} cannot be read: {reason}") from error
        return {one.name: one.experiment_id for one in found}

    def get(self, run_id: str) -> Run:
        """Return a run by its id. Raises QualaError where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            raise QualaError(f"There is no run `{run_id}` in {self.uri}.") from error

    def artifact(self, run_id: str, path: str, folder: Path) -> Path:
        """Copy a file or folder of a run into `folder`. Raises QualaError if it cannot be read."""
        with explaining(f"The artifact `{path}` of run `{run_id}` cannot be read"):
            return Path(self.client.download_artifacts(run_id, path, str(folder)))

    def output(self, place: str, cached: Path | None = None) -> Path:
        """Return a folder by `runs:/ID/output`, a path below that, or `models:/NAME@ALIAS`.

        Its files are compared with the checksums that are part of the run; `cached` is as for
        `download`. What a run of another tool or of an older version made has none, which is
        logged. Raises QualaError if it cannot be read or is damaged.
        """
        with explaining(f"`{place}` cannot be read from {self.uri}"):
            place = self._named(place)
            run_id, _, path = place.removeprefix("runs:/").partition("/")
            ours = place.startswith("runs:/") and PurePosixPath(path).parts[:1] == (OUTPUT,)
            tags = self.client.get_run(run_id).data.tags if ours else {}
        if MANIFEST_TAG not in tags:
            folder = self.download(place, cached)
            log.warning("No checksums are known of `%s`: its files are not verified.", place)
            return folder
        folder = self.download(f"runs:/{run_id}/{OUTPUT}", cached)
        if found := damage(folder, tags[MANIFEST_TAG]):
            name, wrong = found
            raise QualaError(
                f"`{name}` of run `{run_id}` {wrong}: its output in {folder} is damaged; its "
                "workflow computes it again; from a remote store, download it again."
            )
        return folder.joinpath(*PurePosixPath(path).parts[1:])

    def _named(self, place: str) -> str:
        """Return what a version of a registered model was made of, and other places as they are.

        MLflow would ask the registry of the process, not that of this store.
        """
        name, found, alias = place.removeprefix("models:/").partition("@")
        if not place.startswith("models:/"):
            return place
        if found:
            return str(self.client.get_model_version_by_alias(name, alias).source)
        name, _, version = name.rpartition("/")
        return str(self.client.get_model_version(name, version).source) if name else place

    def download(self, artifact: str, cached: Path | None = None) -> Path:
        """Return a folder by `runs:/ID/PATH` or its address, not verified: see `output`.

        It is the folder of the store itself where that is local, else a copy under `cached`, or in
        a new temporary folder. Raises QualaError if it cannot be read.
        """
        from mlflow.artifacts import download_artifacts

        with explaining(f"`{artifact}` cannot be read from {self.uri}"):
            if artifact.startswith("runs:/"):
                # MLflow copies what is named by a run; by its own address a local folder stays.
                run_id, _, path = artifact.removeprefix("runs:/").partition("/")
                artifact = f"{self.client.get_run(run_id).info.artifact_uri}/{path}"
            local = artifact.startswith(("file:", "/"))
            place = download_artifacts(
                artifact_uri=artifact,
                dst_path=None if local or cached is None else _emptied(cached),
                tracking_uri=self.uri,
                registry_uri=self.uri,
            )
            return Path(place)

    def stage_run(self, run_id: str, stage: str) -> str:
        """Return the run of a workflow's stage, or `run_id` itself where it has none.

        Raises QualaError for a run that is not there.
        """
        with explaining(f"`{run_id}` cannot be read from {self.uri}"):
            tags = self.client.get_run(run_id).data.tags
        return str(tags.get(f"{STAGE}.{stage}") or run_id)

    def register(self, name: str, run_id: str, alias: str) -> str:
        """Make a run's output a version of a registered model and return its number.

        Raises:
            QualaError: when the store refuses.
        """
        with explaining(f"`{name}` could not be registered in {self.uri}"):
            if not self.client.search_registered_models(f"name = '{name}'"):
                self.client.create_registered_model(name)
            version = self.client.create_model_version(name, f"runs:/{run_id}/{OUTPUT}", run_id)
            self.client.set_registered_model_alias(name, alias, version.version)
        return str(version.version)


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
        uri = tracking.uri or f"{SQLITE}{folder / 'mlflow.db'}"
        work = Path(tracking.work).absolute() if tracking.work else folder / "work"
        keep_quiet()
        hide_password(uri)
        with explaining(f"The tracking store {uri} cannot be used"):
            if path := database_of(uri):
                ensure_database(path, folder / "artifacts")
                check_database(path)
            elif uri.startswith(SERVER):
                check_server(uri)
            from mlflow import MlflowClient

            client = patient_client(lambda: MlflowClient(tracking_uri=uri, registry_uri=uri), uri)
            experiment_id = _experiment(client, tracking.experiment, uri, folder / "artifacts")
        return cls(client, uri, tracking.experiment, experiment_id, work, folder)

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


def unused_variables(tracking: TrackingConfig) -> list[str]:
    """Say which of MLflow's own variables are set and not followed."""
    found = []
    for name, own in (("uri", tracking.uri), ("experiment", tracking.experiment)):
        variable = {"uri": "MLFLOW_TRACKING_URI", "experiment": "MLFLOW_EXPERIMENT_NAME"}[name]
        value = os.environ.get(variable)
        if value and value != own and (own is None or name == "experiment"):
            found.append(f"`{variable}={value}` is not used: pass `tracking.{name}={value}`.")
    return found


def keep_quiet() -> None:
    """Stop MLflow from writing progress and addresses to the terminal, unless the user set it."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # It writes the traceback of each error, which the one who meets the error words.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


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


def _emptied(folder: Path) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return str(folder)
