"""What a tracking store holds: its runs with their sizes, what is damaged, what nothing needs."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from quala.errors import QualaError
from quala.manifest import damage
from quala.workflow.addresses import ARTIFACTS, local_folder
from quala.workflow.database import connect, database_of
from quala.workflow.lease import busy
from quala.workflow.registry import logged_models, made_of
from quala.workflow.sweep import JOB
from quala.workflow.tracking import (
    DAMAGED,
    FINGERPRINT,
    KIND,
    LOGGED_MODEL,
    MANIFEST_TAG,
    OUTPUT,
    PARENT,
    Tracking,
    explaining,
    stage_runs,
)
from quala.workflow.views import forget, pages_of

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

KINDS = ("workflow", "sweep", "stage")
RUN_ID = re.compile(r"\b[0-9a-f]{32}\b")
SHORTEST = 6
"""Characters of an id that name a run."""
SECONDS_A_DAY = 86_400


def size_of(folder: Path) -> int:
    """Return the bytes of the files in a folder, 0 where there is none.

    A file that several runs have, by links, is divided among them.
    """
    files = (Path(at) / name for at, _, names in os.walk(folder) for name in names)
    found = (file.lstat() for file in files)
    return sum(one.st_size // one.st_nlink for one in found)


def under_way(run: Run) -> bool:
    """Return whether a live process works on a run."""
    return run.info.status != "FINISHED" and busy(run)


@dataclass
class Inventory:
    """The runs of a store, as they are when it is read."""

    tracking: Tracking
    experiments: dict[str, str]
    """Names by id."""
    runs: dict[str, Run]
    """Those of workflows, sweeps and stages; those of candidates belong to their stage."""
    trash: dict[str, Run]
    _sizes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, tracking: Tracking) -> Inventory:
        """Read a store. Raises QualaError where that is not possible."""
        with explaining(f"The tracking store {tracking.uri} cannot be read"):
            found = tracking.client.search_experiments(view_type=3)  # deleted ones too
            experiments = {one.experiment_id: one.name for one in found}
            ids = list(experiments)
            runs = [run for kind in KINDS for run in tracking.find_runs(ids, {KIND: kind})]
            trash = tracking.find_runs(ids, {}, deleted=True)
        known, deleted = ({run.info.run_id: run for run in group} for group in (runs, trash))
        return cls(tracking, experiments, known, deleted)

    @cached_property
    def root(self) -> Path | None:
        """The folder of a store on this disk."""
        path = database_of(self.tracking.uri)
        return path.absolute().parent if path else None

    @cached_property
    def versions(self) -> dict[str, str]:
        """The registered version that was made of a run, by its id."""
        found: dict[str, str] = {}
        page: str | None = None
        while page != "":
            versions = self.tracking.client.search_model_versions(page_token=page)
            for one in versions:
                needs = {one.run_id, *RUN_ID.findall(one.source or "")}
                if logged := LOGGED_MODEL.fullmatch(one.source or ""):
                    model = self.models.get(logged[1])
                    needs = {one.run_id if one.run_id in self.runs else None}
                    needs.add(made_of(model) if model else logged[1])
                for run_id in needs - {None, ""}:
                    found[run_id] = f"`{one.name}` version {one.version}"
            page = versions.token or ""
        return found

    def of_kind(self, *kinds: str) -> list[Run]:
        """Return the runs of some kinds, newest first."""
        return [run for run in self.runs.values() if run.data.tags[KIND] in kinds]

    def find(self, name: str) -> Run:
        """Return a workflow or sweep run by its id or the beginning of it. Raises QualaError."""
        known = self.of_kind("workflow", "sweep")
        found = [run for run in known if run.info.run_id.startswith(name)]
        if len(found) == 1 and len(name) >= SHORTEST:
            return found[0]
        several = f"begins the ids of {len(found)} runs" if len(name) >= SHORTEST else "is short"
        newest = ", ".join(run.info.run_id[:8] for run in known[:3]) or "none"
        wrong = several if found else "is no run of a workflow or a sweep"
        raise QualaError(f"`{name}` {wrong} in {self.tracking.uri}. Newest: {newest}.")

    def folder(self, run: Run) -> Path | None:
        """Return the folder with all artifacts of a run, None for one on a server."""
        return self.local(run.info.artifact_uri, run.info.run_id)

    def local(self, address: str, name: str) -> Path | None:
        """Return the folder `name` that holds the artifacts at an address, None for a server's."""
        place = local_folder(address) if self.root else None
        return place.parent if place and place.parent.name == name else place

    @cached_property
    def models(self) -> dict[str, LoggedModel]:
        """Logged models by id."""
        found = logged_models(self.tracking, list(self.experiments))
        return {model.model_id: model for model in found}

    @cached_property
    def _models_bytes(self) -> dict[str | None, int]:
        """The bytes of logged models on this disk, by the run that they go with."""
        found: dict[str | None, int] = {}
        for model in self.models.values() if self.root else ():
            folder = self.local(model.artifact_location, model.model_id)
            size = size_of(folder) if folder else 0
            found[made_of(model)] = found.get(made_of(model), 0) + size
        return found

    def size(self, run: Run) -> int:
        """Return the bytes of a run's artifacts on this disk, its logged models included."""
        folder, run_id = self.folder(run), run.info.run_id
        if folder is not None and run_id not in self._sizes:
            self._sizes[run_id] = size_of(folder) + self._models_bytes.get(run_id, 0)
        return self._sizes.get(run_id, 0)

    def showing(self, model_id: str) -> list[str]:
        """Return the ids of the runs that show a logged model as theirs."""
        shown = ((key, run.outputs) for key, run in self.runs.items() if run.outputs)
        return [
            key for key, of in shown if any(one.model_id == model_id for one in of.model_outputs)
        ]

    def stages_of(self, run: Run) -> dict[str, Run]:
        """Return the stage runs that a workflow run, or the jobs of a sweep, used or began."""
        if jobs := self.below(run):
            return {key: one for job in jobs for key, one in self.stages_of(job).items()}
        ids = [*stage_runs(run).values(), *self._begun.get(run.info.run_id, ())]
        return {one: self.runs[one] for one in ids if one in self.runs}

    @cached_property
    def _begun(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for run in self.of_kind("stage"):
            found.setdefault(run.data.tags.get(PARENT, ""), []).append(run.info.run_id)
        return found

    def jobs(self, sweep: Run) -> list[Run]:
        """Return the workflow runs of a sweep."""
        notes = [json.loads(one) for key, one in sweep.data.tags.items() if key.startswith(JOB)]
        return [self.runs[job["run_id"]] for job in notes if job["run_id"] in self.runs]

    @cached_property
    def users(self) -> dict[str, set[str]]:
        """Ids of the workflow runs that use a stage run, by its id."""
        found: dict[str, set[str]] = {}
        for run in self.of_kind("workflow"):
            for stage in self.stages_of(run):
                found.setdefault(stage, set()).add(run.info.run_id)
        return found

    def alone(self, run: Run) -> int:
        """Return the bytes of a run and of the stages that no other workflow run uses."""
        own = {run.info.run_id, *(job.info.run_id for job in self.below(run))}
        stages = self.stages_of(run).items()
        only = [stage for key, stage in stages if self.users.get(key, set()) <= own]
        return sum(map(self.size, [run, *self.below(run), *only]))

    def whole(self, run: Run) -> int:
        """Return the bytes of a run and of all its stages."""
        return sum(map(self.size, [run, *self.below(run), *self.stages_of(run).values()]))

    def below(self, run: Run) -> list[Run]:
        """Return the jobs of a sweep, nothing for a workflow."""
        return self.jobs(run) if run.data.tags[KIND] == "sweep" else []

    def unfinished(self) -> dict[Path, list[Run]]:
        """Return the folders of unfinished work, each with the stage runs that it may be of."""
        found: dict[Path, list[Run]] = {}
        for folder in sorted(self.root.glob("work/*")) if self.root else ():
            if re.fullmatch("[0-9a-f]{16}", folder.name):
                found[folder] = [
                    run
                    for run in self.of_kind("stage")
                    if run.data.tags.get(FINGERPRINT, "").startswith(folder.name)
                ]
        return found

    def strays(self) -> list[Path]:
        """Return the folders of artifacts whose run is not in the database."""
        folders = sorted(self.root.glob(f"{ARTIFACTS}/*/*")) if self.root else []
        path = database_of(self.tracking.uri)
        named = [one for one in folders if RUN_ID.fullmatch(one.name)]
        if not named or path is None:
            return []
        with explaining(f"`{path}` cannot be read"), closing(connect(path)) as database:
            known = {one for (one,) in database.execute("SELECT run_uuid FROM runs")}
        return [one for one in named if one.name not in known]


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be, and what to do."""

    name: str
    what: str
    advice: str
    damaged: bool = True


def check_database_file(path: Path) -> Iterator[Finding]:
    """Yield what SQLite finds wrong in a database."""
    try:
        with closing(connect(path)) as database:
            found = [one for (one,) in database.execute("PRAGMA integrity_check")]
    except sqlite3.DatabaseError as error:
        found = [str(error)]
    if found != ["ok"]:
        yield Finding(path.name, "; ".join(found[:3]), "put a copy of the database back")


def check_versions(inventory: Inventory) -> Iterator[Finding]:
    """Yield the registered versions whose run is not there."""
    for run_id, name in inventory.versions.items():
        if run_id in inventory.trash:
            advice = f"`mlflow runs restore --run-id {run_id}`"
            yield Finding(name, "is of a run that was deleted", advice)
        elif run_id not in inventory.runs:
            try:
                inventory.tracking.get(run_id)
            except QualaError:
                yield Finding(name, f"is of a run that is gone, {run_id}", "delete the version")


def check_output(inventory: Inventory, run: Run) -> Finding | None:
    """Return what is wrong with a stage run, None where nothing is."""
    name, tags = f"{run.info.run_name} {run.info.run_id[:8]}", run.data.tags
    if run.info.status != "FINISHED":
        if under_way(run):
            return None
        advice = "the same `quala run` goes on with it; else `quala store remove --unused`"
        return Finding(name, f"is unfinished ({run.info.status.lower()})", advice, damaged=False)
    if DAMAGED in tags:
        advice = "`quala store remove --unused`, once it was computed again"
        return Finding(name, f"was found damaged (`{tags[DAMAGED]}`)", advice, damaged=False)
    if MANIFEST_TAG not in tags:
        what = "has no checksums, as those of older versions"
        return Finding(name, what, "nothing", damaged=False)
    again = "put a copy of it back, or `quala run`, which computes it again"
    if inventory.root is None:
        try:
            inventory.tracking.output(f"runs:/{run.info.run_id}/{OUTPUT}")
        except QualaError as error:
            return Finding(name, str(error), again)
        return None
    folder = local_folder(run.info.artifact_uri)
    found = damage(folder / OUTPUT, tags[MANIFEST_TAG]) if folder else None
    return Finding(name, f"`{found[0]}` {found[1]} in {folder}", again) if found else None


@dataclass
class Removal:
    """What is to be removed, and why."""

    inventory: Inventory
    runs: dict[str, str] = field(default_factory=dict)
    """Why a run goes, by its id."""
    folders: dict[Path, str] = field(default_factory=dict)
    """Why a folder goes that is of no run."""
    notes: list[str] = field(default_factory=list)

    def entry(self, run_id: str) -> Run:
        """Return a run that goes."""
        return self.inventory.runs.get(run_id) or self.inventory.trash[run_id]

    @property
    def bytes(self) -> int:
        """How much goes."""
        runs = sum(self.inventory.size(self.entry(run_id)) for run_id in self.runs)
        return runs + sum(map(size_of, self.folders))

    def apply(self) -> None:
        """Remove it.

        Runs are put into MLflow's trash first, workflows before the stages they used: then no run
        lacks its files wherever this is interrupted, and the next removal ends it. `mlflow gc`
        removes runs and files in this way too, but neither candidates nor unfinished work, and it
        does not look at who needs them.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.store.tracking.dbmodels.models import SqlLoggedModel
        from mlflow.tracking._tracking_service.utils import _get_store

        inventory, client = self.inventory, self.inventory.tracking.client
        with explaining(f"The tracking store {inventory.tracking.uri} cannot be written"):
            gone = {run_id: self.entry(run_id) for run_id in self.runs}
            children = {one: list(self._below(one)) for one in gone}
            for run_id, run in gone.items():
                if run.info.lifecycle_stage == "active":
                    client.delete_run(run_id)
                if run.data.tags.get(KIND) == "sweep":
                    with pages_of("the removal"):
                        forget(client, run.info.experiment_id, run_id)
                for one in children[run_id] if inventory.root is None else ():
                    client.delete_run(one)
            if inventory.root is None:
                with suppress(MlflowException):  # an older server has no logged models
                    for model_id, model in inventory.models.items():
                        if made_of(model) in gone:
                            client.delete_logged_model(model_id)
                return
            # What is on a server stays in the trash.
            gone = {run_id: run for run_id, run in gone.items() if inventory.folder(run)}
            for folder in (*self.folders, *map(inventory.folder, gone.values())):
                if folder is not None and folder.exists():
                    shutil.rmtree(folder)
            store: SqlAlchemyStore = _get_store(inventory.tracking.uri)
            for model_id, model in inventory.models.items():
                folder = inventory.local(model.artifact_location, model_id)
                if made_of(model) in gone and folder is not None:
                    shutil.rmtree(folder, ignore_errors=True)
                    store._hard_delete_logged_model(model_id)
                elif model.source_run_id in gone:
                    with store.ManagedSessionMaker(read_only=False) as session:
                        session.get(SqlLoggedModel, model_id).source_run_id = next(
                            (one for one in inventory.showing(model_id) if one not in gone), None
                        )
            for run_id in gone:
                for one in (*children[run_id], run_id):
                    store._hard_delete_run(one)

    def _below(self, run_id: str) -> Iterator[str]:
        """Yield the runs of a run's candidates."""
        inventory = self.inventory
        ids, parent = list(inventory.experiments), {PARENT: run_id}
        for deleted in (False, True):
            for run in inventory.tracking.find_runs(ids, parent, deleted=deleted):
                known = run.data.tags.get(KIND) in KINDS or run.info.run_id in self.runs
                if not known:
                    yield from self._below(run.info.run_id)
                    yield run.info.run_id


def plan_removal(
    inventory: Inventory, names: Iterable[str], *, unused: bool, days: float = 0.0
) -> Removal:
    """Return what can be removed: the named runs, and with `unused` what nothing needs.

    `days` is how old the latter must be. Raises QualaError for a run that is needed.
    """
    plan = Removal(inventory)
    named = {run.info.run_id: run for run in map(inventory.find, names)}
    for run_id, run in named.items():
        if refused := _refused(inventory, run, named):
            raise QualaError(f"The run `{run_id}` {refused}.")
        plan.runs[run_id] = "named"
        jobs = [one for one in inventory.below(run) if not _refused(inventory, one, named)]
        plan.runs |= {one.info.run_id: "a job of it" for one in jobs}
    before = (time.time() - days * SECONDS_A_DAY) * 1000

    def old(run: Run) -> bool:
        ended: int = run.info.end_time or run.info.start_time
        return ended <= before

    fronts = inventory.of_kind("workflow", "sweep")
    if unused:
        for run in fronts:
            ended = run.info.status != "FINISHED" and old(run) and not inventory.below(run)
            if ended and not _refused(inventory, run, ()):
                plan.runs.setdefault(run.info.run_id, run.info.status.lower())
    needed = _needed(plan, [run for run in fronts if run.info.run_id not in plan.runs])
    theirs = {one for run_id in plan.runs for one in inventory.stages_of(inventory.runs[run_id])}
    for run in inventory.of_kind("stage"):
        run_id = run.info.run_id
        if run_id not in needed and (run_id in theirs or (unused and old(run))):
            plan.runs[run_id] = "no workflow run needs it"
    if unused and inventory.root:  # a server empties its trash itself
        trash = [one for one, run in inventory.trash.items() if old(run)]
        plan.runs |= {one: "deleted" for one in trash if one not in inventory.versions}
        plan.folders |= dict.fromkeys(inventory.strays(), "of no run")
    for folder, of in inventory.unfinished().items():
        ended = [run.info.status == "FINISHED" or run.info.run_id in plan.runs for run in of]
        if ended and all(ended) and (unused or any(run.info.run_id in plan.runs for run in of)):
            plan.folders[folder] = f"unfinished work of `{of[0].info.run_name}`, which has ended"
    return plan


def _refused(inventory: Inventory, run: Run, named: Collection[str]) -> str | None:
    """Return why a workflow or sweep run must stay, None where it need not."""
    if under_way(run):
        return "is under way: stop it first"
    if version := inventory.versions.get(run.info.run_id):
        return f"is registered as {version}: delete that first"
    for sweep in inventory.of_kind("sweep"):
        if sweep.info.run_id not in named and run in inventory.jobs(sweep):
            return f"is a job of the sweep `{sweep.info.run_id}`, whose report needs it: name that"
    return None


def _needed(plan: Removal, kept: Iterable[Run]) -> set[str]:
    """Return the ids of the stage runs that stay."""
    inventory = plan.inventory
    needed = set(inventory.versions)
    needed |= {run.info.run_id for run in inventory.of_kind("stage") if under_way(run)}
    for run in kept:
        needed |= set(inventory.stages_of(run)) | _mentioned(inventory, run)
    if any(under_way(run) for run in kept):
        # Which stored outputs it will ask for is not known yet.
        plan.notes.append("A workflow is under way: the outputs of all finished stages stay.")
        stages = inventory.of_kind("stage")
        needed |= {run.info.run_id for run in stages if run.info.status == "FINISHED"}
    return needed


def _mentioned(inventory: Inventory, run: Run) -> set[str]:
    """Return the ids of the runs that a configuration names, as `given` or as a model."""
    folder = local_folder(run.info.artifact_uri)
    config = folder / "provenance/config.yaml" if folder and inventory.root else None
    text = config.read_text(encoding="utf-8") if config and config.is_file() else ""
    return set(RUN_ID.findall(f"{run.data.tags.get('quala.overrides', '')} {text}"))
