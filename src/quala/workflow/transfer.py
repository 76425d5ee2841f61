"""Runs in one file or folder, to be taken into another store: on another machine, or a server."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from quala import __version__
from quala.durable import settle
from quala.errors import QualaError
from quala.manifest import damage, write_manifest
from quala.metrics.interval import METRIC_NAMES
from quala.ranges import check_text
from quala.redact import recorded
from quala.stored import read_json, read_stored, stored
from quala.workflow.addresses import HEARTBEAT, local_folder
from quala.workflow.database import database_of
from quala.workflow.inventory import KINDS, RUN_ID, Inventory
from quala.workflow.lease import HELD, OWNER, RELEASED, TAKEOVER
from quala.workflow.settings import TrackingConfig
from quala.workflow.store import LONGEST_TAG, Store
from quala.workflow.sweep import JOB
from quala.workflow.tracking import (
    DAMAGED,
    FINGERPRINT,
    KIND,
    MANIFEST_TAG,
    OUTPUT,
    PARENT,
    STAGE,
    explaining,
)
from quala.workflow.views import FRONT, pages_of, show_fronts

if TYPE_CHECKING:
    from mlflow.entities import Run

INDEX, RECORD, FILES = "quala-store.json", "run.json", "artifacts"
FORMAT = 1
IMPORTED = "quala.imported"
"""Of a run that came from another store: its id there."""
OF_A_PROCESS = {OWNER, HEARTBEAT, HELD, RELEASED}
DEEPEST, LONGEST_NAME = 32, 255
"""Folders in one another, and bytes of a name: what file systems take."""
LARGEST_RECORD = 2**29
"""Bytes of the record of a run; a metric of a million steps takes a tenth. A guess."""
LONGEST_KEY, LONGEST_PARAM = 250, 6000
"""Characters that MLflow takes."""
LAST = 253_402_300_799_000
"""The last millisecond of the year 9999."""
_NUMBER = re.compile(r"-?(\d+(\.\d+)?(e[+-]?\d+)?|inf)|nan")
_NO_EXPORT = zipfile.BadZipFile, RuntimeError, EOFError, FileExistsError, NotADirectoryError
METRICS_AT_ONCE, ENTRIES_AT_ONCE = 1000, 100
"""What MLflow takes in one request."""


@dataclass(frozen=True)
class Used:
    """A data set that a run used."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None = None
    profile: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """All of a run but its files."""

    run_id: str
    experiment: str
    name: str
    start: int
    end: int
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, tuple[tuple[str, int, int], ...]]
    """Value, step and time in ms of each point; values as text, for JSON has no `nan`."""
    datasets: tuple[Used, ...] = ()

    def __post_init__(self) -> None:
        if not RUN_ID.fullmatch(self.run_id):
            raise QualaError(f"`run_id` must be 32 hexadecimal digits, got `{self.run_id:.40}`.")
        check_text("experiment", self.experiment, "name")
        if not 0 <= self.start <= self.end <= LAST:
            raise QualaError(f"`start` and `end` must be times, got {self.start} and {self.end}.")
        for key, history in self.metrics.items():
            for value, *_ in history:
                if not _NUMBER.fullmatch(value):
                    raise QualaError(f"`metrics.{key}` must hold numbers, got `{value:.40}`.")
        for kind, most in (("tags", LONGEST_TAG), ("params", LONGEST_PARAM)):
            for key, value in getattr(self, kind).items():
                if len(key) > LONGEST_KEY or len(value) > most:
                    raise QualaError(f"`{kind}.{key:.40}` is longer than MLflow allows.")


@dataclass(frozen=True)
class Index:
    """The runs of an export in the order in which they can be imported."""

    format: int
    quala: str
    runs: tuple[str, ...]
    fronts: tuple[str, ...]
    """The workflow and sweep runs that were named."""


def export_runs(inventory: Inventory, fronts: Sequence[Run], out: Path) -> list[str]:
    """Write finished runs of workflows and sweeps with their stages; return the ids of all.

    `out` is a new folder, or a new file that ends with `.zip`. Raises QualaError for what is not
    finished, for a damaged output, and where `out` cannot be written.
    """
    if out.exists():
        raise QualaError(f"`--out` must be new, `{out}` is there already.")
    users = _closure(inventory, fronts)
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for run_id, parent in users.items():
            _write_run(inventory, inventory.runs[run_id], parent, partial / "runs" / run_id)
        index = Index(FORMAT, __version__, tuple(users), tuple(one.info.run_id for one in fronts))
        _write(partial / INDEX, dataclasses.asdict(index))
        write_manifest(partial)
        settle(partial)
        if out.suffix == ".zip":
            _pack(partial, out)
        else:
            partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return list(users)


def _closure(inventory: Inventory, fronts: Sequence[Run]) -> dict[str, str | None]:
    """Return the runs that `fronts` need, stages first, each with the run to be shown below."""
    found: dict[str, str | None] = {}
    for front in fronts:
        if front.info.status != "FINISHED":
            status = front.info.status.lower()
            raise QualaError(f"The run `{front.info.run_id}` is not finished ({status}).")
        jobs = inventory.below(front)
        for workflow in jobs or [front]:
            for run_id, stage in inventory.stages_of(workflow).items():
                if stage.info.status == "FINISHED" and DAMAGED not in stage.data.tags:
                    found.setdefault(run_id, workflow.info.run_id)
        found |= {job.info.run_id: front.info.run_id for job in jobs}
        found.setdefault(front.info.run_id, None)
    kinds = ("stage", "workflow", "sweep")
    order = {one: kinds.index(inventory.runs[one].data.tags[KIND]) for one in found}
    return dict(sorted(found.items(), key=lambda item: order[item[0]]))


def _write_run(inventory: Inventory, run: Run, parent: str | None, folder: Path) -> None:
    tracking, run_id = inventory.tracking, run.info.run_id
    seal = run.data.tags.get(MANIFEST_TAG)
    if seal is not None:
        tracking.output(f"runs:/{run_id}/{OUTPUT}")  # which compares it with its checksums
    files = folder / FILES
    files.mkdir(parents=True)
    with explaining(f"The artifacts of run `{run_id}` cannot be copied to {folder}"):
        place = local_folder(run.info.artifact_uri) if inventory.root else None
        if place is None:
            tracking.client.download_artifacts(run_id, "", str(files))
        elif place.is_dir():
            shutil.copytree(place, files, dirs_exist_ok=True)
        own = _record(inventory, run) | {"tags": _own_tags(run, parent)}
        children = tracking.find_runs(list(inventory.experiments), {PARENT: run_id})
        below = [
            one
            for one in children
            if one.data.tags.get(KIND) not in KINDS and one.info.status == "FINISHED"
        ]
        _write(folder / RECORD, [own, *(_record(inventory, one) for one in below)])


def _own_tags(run: Run, parent: str | None) -> dict[str, str]:
    left_out = {*OF_A_PROCESS, PARENT, IMPORTED}
    tags = {key: one for key, one in run.data.tags.items() if key not in left_out}
    return tags | ({PARENT: parent} if parent else {})


def _record(inventory: Inventory, run: Run) -> dict[str, Any]:
    run_id, history = run.info.run_id, inventory.tracking.client.get_metric_history
    return {
        "run_id": run_id,
        "experiment": inventory.experiments[run.info.experiment_id],
        "name": run.info.run_name,
        "start": run.info.start_time,
        "end": run.info.end_time or run.info.start_time,
        "tags": dict(run.data.tags),
        "params": {k: one for k, one in run.data.params.items() if not k.startswith(TAKEOVER)},
        "metrics": {
            key: [
                [repr(one.value), one.step, one.timestamp] for one in history(run.info.run_id, key)
            ]
            for key in run.data.metrics
        },
        "datasets": [
            {**one.dataset.to_dictionary(), "tags": {tag.key: tag.value for tag in one.tags}}
            for one in (run.inputs.dataset_inputs if run.inputs else ())
        ],
    }


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")


def _pack(folder: Path, out: Path) -> None:
    """Write a folder as a zip, not compressed: weights do not get smaller."""
    draft = out.with_name(f"{out.name}.draft")
    try:
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(folder).as_posix())
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)


@dataclass
class Imported:
    """What an import did."""

    fronts: Sequence[str]
    ids: dict[str, str] = field(default_factory=dict)
    """The id that each run has in this store, by the one it had."""
    new: list[str] = field(default_factory=list)


def import_runs(place: Path, uri: str | None) -> Imported:
    """Take the runs of an export into a store, which is made where there is none.

    A run that is there already is left alone. In a SQLite store runs keep their ids; a server
    gives them new ones. Raises QualaError for an export that is damaged or that holds what an
    export does not, before anything is written.
    """
    path = database_of(uri) if uri else Path("mlruns/mlflow.db")
    folder = path.absolute().parent if path else Path("mlruns").absolute()
    with _opened(place) as source:
        index, records = _checked(source)
        done = Imported(index.fronts)
        stores: dict[str, Store] = {}
        for run_id in index.runs:
            files: Path | None = source / "runs" / run_id / FILES
            for record in records[run_id]:
                name = record.experiment
                if name not in stores:
                    stores[name] = Store.open(TrackingConfig(uri, str(folder), None, name))
                with explaining(f"Run `{record.run_id}` cannot be written to {stores[name].uri}"):
                    _take(stores[name], record, files, done)
                files = None
        # A parent comes after what is below it, and may have got another id.
        for own, *_ in records.values():
            parent = own.tags.get(PARENT, "")
            if done.ids.get(parent, parent) != parent:
                client = stores[own.experiment].client
                client.set_tag(done.ids[own.run_id], PARENT, done.ids[parent])
        shown = {(own.experiment, key) for own, *_ in records.values() for key in own.metrics}
        for name, key in shown & set(product(stores, (f"{FRONT}{one}" for one in METRIC_NAMES))):
            with pages_of("the import"):
                store = stores[name]
                show_fronts(store.client, store.experiment_id, key.removeprefix(FRONT))
    return done


@contextmanager
def _opened(place: Path) -> Iterator[Path]:
    """Yield the folder of an export; raise QualaError for what an export does not hold."""
    if place.is_dir():
        if links := [one for one in place.rglob("*") if one.is_symlink()]:
            raise QualaError(f"`{links[0]}` is a link, which no export holds.")
        yield place
        return
    if not place.is_file():
        raise QualaError(f"There is no file or folder `{place}`.")
    beside = place.absolute().parent  # where there is room for it, unlike in many a /tmp
    room = beside if os.access(beside, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=room, prefix=".import-") as folder:
        try:
            _unpack(place, Path(folder))
        except _NO_EXPORT as error:
            raise QualaError(f"`{place}` is no whole export: {error}.") from error
        yield Path(folder)


def _unpack(place: Path, folder: Path) -> None:
    with zipfile.ZipFile(place) as archive:
        entries = archive.infolist()
        if sum(one.file_size for one in entries) > place.stat().st_size:
            raise QualaError(f"`{place}` holds more than its size: it is no export.")
        for entry in entries:
            name = PurePosixPath(entry.filename)
            parts = name.parts
            inside = not (name.is_absolute() or ".." in parts or re.search(r"[\\:\0]", str(name)))
            short = len(parts) <= DEEPEST and all(
                len(os.fsencode(one)) <= LONGEST_NAME for one in parts
            )
            stored_as_is = entry.compress_type == zipfile.ZIP_STORED and not entry.is_dir()
            if not (inside and short and stored_as_is):
                raise QualaError(f"`{entry.filename:.80}` in `{place}` is not of an export.")
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as file, target.open("xb") as copy:
                shutil.copyfileobj(file, copy)


def _checked(folder: Path) -> tuple[Index, dict[str, tuple[Record, ...]]]:
    """Return what an export says, verified by its checksums and by those of each output."""
    if found := damage(folder):
        raise QualaError(f"`{found[0]}` of the export {found[1]}: write it again.")
    index: Index = read_stored(Index, folder / INDEX)
    if index.format != FORMAT:
        raise QualaError(f"The export has the format {index.format}, this version reads {FORMAT}.")
    records = {}
    for run_id in index.runs:
        if not RUN_ID.fullmatch(run_id):
            raise QualaError(f"`{run_id:.40}` is no id of a run.")
        file = folder / "runs" / run_id / RECORD
        read: tuple[Record, ...] = stored(
            tuple[Record, ...], read_json(file, largest=LARGEST_RECORD), file
        )
        below = all(one.tags.get(PARENT) == run_id for one in read[1:])
        kinds = [one.tags.get(KIND) in KINDS for one in read]
        if not (read and read[0].run_id == run_id and below and kinds[0] and sum(kinds) == 1):
            raise QualaError(f"`{file}` is not of the run that it is named by.")
        seal = read[0].tags.get(MANIFEST_TAG)
        output = folder / "runs" / run_id / FILES / OUTPUT
        if (seal or output.exists()) and (found := damage(output, seal or "")):
            raise QualaError(f"`{found[0]}` of run `{run_id}` {found[1]}: write the export again.")
        records[run_id] = read
    return index, records


def _take(store: Store, record: Record, files: Path | None, done: Imported) -> None:
    """Write a run into a store unless it is there; its fingerprint comes last."""
    known = _known(store, record)
    if known is not None and known.info.status == "FINISHED":
        done.ids[record.run_id] = known.info.run_id
        return
    own = known.info.run_id if known else _begin(store, record)
    done.ids[record.run_id] = own
    if files is not None:
        _send(store, own, files)
    _log(store, own, record, done.ids)
    store.client.set_terminated(own, "FINISHED", record.end)
    done.new.append(own)


def _known(store: Store, record: Record) -> Run | None:
    """Return the run of a record, whole or from an import that was interrupted.

    Raises QualaError where another run has its id, or where it was deleted.
    """
    from mlflow.exceptions import MlflowException

    found = store.find({IMPORTED: record.run_id})
    if not found and database_of(store.uri):
        try:
            found = [store.client.get_run(record.run_id)]
        except MlflowException:
            return None
    if not found:
        return None
    run, whole = found[0], found[0].info.status == "FINISHED"
    if run.info.lifecycle_stage != "active":
        raise QualaError(
            f"The run `{run.info.run_id}` was deleted from {store.uri}: restore it with MLflow or "
            "end that with `quala store remove --unused`."
        )
    same = all(
        run.data.tags.get(key) == record.tags.get(key) for key in (FINGERPRINT, MANIFEST_TAG)
    )
    if (whole and not same) or not (whole or IMPORTED in run.data.tags):
        raise QualaError(f"{store.uri} has another run `{run.info.run_id}`.")
    return run


def _begin(store: Store, record: Record) -> str:
    """Create an unfinished run, with the id that it had where the store allows it."""
    tags = {IMPORTED: record.run_id}
    if not database_of(store.uri):
        made = store.client.create_run(
            store.experiment_id, start_time=record.start, tags=tags, run_name=record.name
        )
        return str(made.info.run_id)
    from mlflow.store.tracking.dbmodels.models import SqlRun, SqlTag
    from mlflow.tracking._tracking_service.utils import _get_store

    place = store.client.get_experiment(store.experiment_id).artifact_location
    row = SqlRun(
        run_uuid=record.run_id,
        name=record.name,
        experiment_id=int(store.experiment_id),
        artifact_uri=f"{place}/{record.run_id}/{FILES}",
        user_id=record.tags.get("mlflow.user", ""),
        status="RUNNING",
        start_time=record.start,
        lifecycle_stage="active",
        source_type="UNKNOWN",
    )
    row.tags = [SqlTag(key=key, value=value) for key, value in tags.items()]
    with _get_store(store.uri).ManagedSessionMaker(read_only=False) as session:
        session.add(row)
    return record.run_id


def _send(store: Store, run_id: str, files: Path) -> None:
    local = local_folder(store.client.get_run(run_id).info.artifact_uri)
    if local is None:
        store.client.log_artifacts(run_id, str(files))
        return
    shutil.rmtree(local, ignore_errors=True)
    for file in [one for one in files.rglob("*") if one.is_file()]:
        copy = local / file.relative_to(files)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    if local.exists():
        settle(local)


def _log(store: Store, run_id: str, record: Record, ids: Mapping[str, str]) -> None:
    """Write params, metrics, datasets and tags, with the ids that runs have here."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    client = store.client
    points = [
        Metric(key, float(value), time, step)
        for key, history in record.metrics.items()
        for value, step, time in history
    ]
    params = [Param(key, value) for key, value in recorded(record.params).items()]
    for some in _parts(points, METRICS_AT_ONCE):
        client.log_batch(run_id, metrics=some)
    for some in _parts(params, ENTRIES_AT_ONCE):
        client.log_batch(run_id, params=some)
    if record.datasets:
        inputs = []
        for one in record.datasets:
            plain = {item.name: getattr(one, item.name) for item in dataclasses.fields(one)}
            of = [InputTag(key, value) for key, value in plain.pop("tags").items()]
            inputs.append(DatasetInput(Dataset(**plain), of))
        client.log_inputs(run_id, inputs)

    def here(key: str, value: str) -> str:
        if key != PARENT and not key.startswith((f"{STAGE}.", JOB)):
            return value
        return RUN_ID.sub(lambda found: ids.get(found[0], found[0]), value)

    left_out, tags = {*OF_A_PROCESS, IMPORTED}, recorded(record.tags)
    labels = [RunTag(k, here(k, one)) for k, one in tags.items() if k not in left_out]
    labels.sort(key=lambda label: label.key == FINGERPRINT)
    for some in _parts(labels, ENTRIES_AT_ONCE):
        client.log_batch(run_id, tags=some)


def _parts(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
