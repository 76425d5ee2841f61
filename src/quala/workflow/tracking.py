"""A tracking store: its runs, artifacts and registered models."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from quala.errors import QualaError
from quala.manifest import damage
from quala.redact import hide_password
from quala.workflow.addresses import follow
from quala.workflow.database import check_database, database_of
from quala.workflow.server import (
    SERVER,
    check_server,
    chosen_address,
    connected,
    embedded,
    patiently,
)
from quala.workflow.tags import HIDDEN, once_named

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


log = logging.getLogger(__name__)


def existing_store(uri: str | None) -> str:
    """Return the address of a store that exists; by default the one that `quala run` uses here.

    Raises:
        QualaError: when nothing was tracked there yet, or no server answers.
    """
    uri = chosen_address(uri) or embedded("mlruns")
    hide_password(uri)
    if path := database_of(uri):
        if not path.is_file():
            raise QualaError(
                f"There is no tracking store at {uri} yet: `quala run` in this folder makes one, "
                "`--tracking-uri` or MLFLOW_TRACKING_URI selects another."
            )
        check_database(path)
        follow(path)
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


KIND = "quala.kind"
WORKFLOW = "quala.workflow"
NOTE = "mlflow.note.content"
"""The description of a run or an experiment."""
ERROR = "quala.error"
PARENT = "mlflow.parentRunId"
FINGERPRINT = f"{HIDDEN}fingerprint"
STAGE = f"{HIDDEN}stage"
NODE = f"{HIDDEN}node"
MANIFEST_TAG = f"{HIDDEN}manifest"
FINAL = f"{HIDDEN}final"
DAMAGED = f"{HIDDEN}damaged"
OUTPUT = "output"
EXPORTED = "quala.export"
"""Tag of a logged model: the stage run that exported it."""
LOGGED_MODEL = re.compile("models:/(m-[0-9a-f]{32})")
RUNS_A_PAGE = 1000
"""MLflow's servers refuse much larger pages."""
QUIET = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


@dataclass(frozen=True)
class Tracking:
    """One tracking store with all its experiments: runs, artifacts and registered models."""

    client: MlflowClient
    uri: str

    @classmethod
    def connect(cls, uri: str | None) -> Tracking:
        """Connect to a store that exists, by default that of this folder. Raises QualaError."""
        uri = existing_store(uri)
        keep_quiet()
        with explaining(f"The tracking store {uri} cannot be read"):
            return Tracking(connected(uri), uri)

    def find_runs(
        self,
        experiments: Sequence[str],
        tags: Mapping[str, str],
        status: str | None = None,
        *,
        newest: int | None = None,
        deleted: bool = False,
    ) -> list[Run]:
        """Return the runs of some experiments that carry `tags`, newest first.

        `newest` limits their number; without it all pages are read. With `deleted` it is those in
        MLflow's trash.
        """
        names = [tags]
        if any(key.startswith(HIDDEN) for key in tags):
            names.append(once_named(dict(tags)))
        found: list[Run] = []
        for one in names:
            terms = [f"tags.`{key}` = '{value}'" for key, value in one.items()]
            if status:
                terms.append(f"attributes.status = '{status}'")
            page: str | None = None
            while page != "":
                runs = self.client.search_runs(
                    list(experiments),
                    filter_string=" AND ".join(terms),
                    run_view_type=2 if deleted else 1,  # as mlflow.entities.ViewType has them
                    max_results=newest or RUNS_A_PAGE,
                    order_by=["attributes.start_time DESC"],
                    page_token=page,
                )
                found += runs
                page = "" if newest else runs.token or ""
        if len(names) > 1:
            found.sort(key=lambda run: run.info.start_time, reverse=True)
        return found[:newest]

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
            place = str(self.client.get_model_version_by_alias(name, alias).source)
        elif "/" in name:
            name, _, version = name.rpartition("/")
            place = str(self.client.get_model_version(name, version).source)
        if model := LOGGED_MODEL.fullmatch(place):  # as MLflow's pages register one
            exported = self.client.get_logged_model(model[1]).tags.get(EXPORTED)
            return f"runs:/{exported}/{OUTPUT}" if exported else place
        return place

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
            place = patiently(
                self.uri,
                lambda: download_artifacts(
                    artifact_uri=artifact,
                    dst_path=None if local or cached is None else _emptied(cached),
                    tracking_uri=self.uri,
                    registry_uri=self.uri,
                ),
            )
            return Path(place)

    def stage_run(self, run_id: str, stage: str) -> str:
        """Return the run of a workflow's stage; any other run is one itself.

        Raises QualaError for a run that is not there, and for a workflow that left the stage out.
        """
        with explaining(f"`{run_id}` cannot be read from {self.uri}"):
            run = self.client.get_run(run_id)
        stages = stage_runs(run)
        if stage in stages:
            return stages[stage]
        if stages:
            told = ", ".join(f"{name} {one}" for name, one in stages.items())
            raise QualaError(
                f"The workflow of run `{run_id}` has no output of `{stage}`, which was left "
                f"out or given. Name the run of another stage: {told}."
            )
        return run_id


def stage_runs(run: Run) -> dict[str, str]:
    """Return the ids of the runs whose outputs a workflow run used, by stage."""
    named = {
        key.removeprefix(f"{STAGE}."): one
        for key, one in run.data.tags.items()
        if key.startswith(f"{STAGE}.")
    }
    return {name: one for name, one in named.items() if one}


def keep_quiet() -> None:
    """Stop MLflow from writing progress and addresses to the terminal, unless the user set it."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # It writes the traceback of each error, which the one who meets the error words.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _emptied(folder: Path) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return str(folder)
