"""Runs that are carried into another store, and exports that are not what they say."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from quala.errors import QualaError
from quala.manifest import write_manifest
from quala.workflow import server, transfer, views
from quala.workflow.addresses import HEARTBEAT
from quala.workflow.execute import Result
from quala.workflow.inventory import Inventory
from quala.workflow.lease import HELD, OWNER, RELEASED
from quala.workflow.plan import make_plan
from quala.workflow.sources import Sources
from quala.workflow.store import Store
from quala.workflow.tracking import FINGERPRINT, PARENT, STAGE, Tracking
from quala.workflow.transfer import export_runs, import_runs

if TYPE_CHECKING:
    from conftest import Toy
    from mlflow.entities import Run


def held(uri: str) -> Inventory:
    return Inventory.of(Tracking.connect(uri))


def exported(toy: Toy, done: Result, name: str = "runs.zip") -> Path:
    inventory = held(done.store.uri)
    export_runs(inventory, [inventory.find(done.run_id)], toy.folder / name)
    return toy.folder / name


@pytest.fixture
def done(toy: Toy) -> Result:
    """A finished workflow; its first stage has a history and a data set."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    found = toy.run()
    first = str(found.outcomes[0].run_id)
    for step in (1, 2):
        found.store.record(first, {"loss": step / 3}, step=step)
    found.store.record(first, {"wrong": float("nan")})
    used = DatasetInput(Dataset("squad", "abc", "local", "{}"), [InputTag("context", "train")])
    found.store.client.log_inputs(first, [used])
    return found


@pytest.fixture
def other(toy: Toy, template: Path) -> str:
    """The address of another store."""
    (toy.folder / "other").mkdir()
    shutil.copy(template, toy.folder / "other/mlflow.db")
    return f"sqlite:///{toy.folder}/other/mlflow.db"


def content(uri: str, run_id: str) -> dict[str, Any]:
    client = Tracking.connect(uri).client
    run = client.get_run(run_id)
    own = (OWNER, HEARTBEAT, HELD, "quala.imported", RELEASED)
    history = {key: client.get_metric_history(run_id, key) for key in run.data.metrics}
    return {
        "run": (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time),
        "params": run.data.params,
        "tags": {key: one for key, one in run.data.tags.items() if key not in own},
        "metrics": {
            key: [(repr(one.value), one.step, one.timestamp) for one in points]
            for key, points in history.items()
        },
        "datasets": [one.to_dictionary() for one in run.inputs.dataset_inputs],
    }


def candidates(store: Store, run_id: str) -> list[Run]:
    return store.find({PARENT: run_id, "quala.kind": "candidate"})


def test_a_workflow_is_whole_in_another_store(toy: Toy, done: Result, other: str) -> None:
    took = import_runs(exported(toy, done), other)
    assert len(took.new) == 1 + 3 + 2
    ids = [done.run_id, *(str(one.run_id) for one in done.outcomes)]
    assert [took.ids[one] for one in ids] == ids
    before = [content(done.store.uri, one) for one in ids]
    shutil.rmtree(toy.folder / "mlruns")
    assert [content(other, one) for one in ids] == before
    again = toy.run(f"tracking.folder={toy.folder}/other")
    assert again.run_id == done.run_id
    assert [one.status for one in again.outcomes] == ["cached"] * 3
    found = candidates(again.store, ids[-1])
    assert {one.info.run_name: one.data.metrics["f1"] for one in found} == {"c0": 0.0, "c1": 1.0}
    assert not list((toy.folder / "other").rglob(".import*"))


def test_the_view_of_the_fronts_is_there_after_an_import(
    toy: Toy, done: Result, other: str
) -> None:
    done.store.history(done.run_id, [("front/f1", 80.0, 1)])
    import_runs(exported(toy, done), other)
    client = Tracking.connect(other).client
    assert views.views(client.get_experiment(done.store.experiment_id).tags) == ["quala-fronts-f1"]


def test_a_store_is_made_where_there_is_none(
    toy: Toy, done: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = exported(toy, done, "folder")
    (toy.folder / "elsewhere").mkdir()
    monkeypatch.chdir(toy.folder / "elsewhere")
    import_runs(file, None)
    assert toy.run().reused
    assert (toy.folder / "elsewhere/mlruns/artifacts/toy" / done.run_id).is_dir()


def test_an_import_changes_nothing_where_all_is_there(toy: Toy, done: Result, other: str) -> None:
    file = exported(toy, done)
    import_runs(file, other)
    for uri in (other, done.store.uri):
        before = content(uri, done.run_id), len(held(uri).runs)
        took = import_runs(file, uri)
        assert not took.new
        assert took.ids[done.run_id] == done.run_id
        assert (content(uri, done.run_id), len(held(uri).runs)) == before


@pytest.mark.parametrize("step", ["_send", "_log"])
def test_an_import_that_is_interrupted_goes_on(
    step: str, toy: Toy, done: Result, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, real, calls = exported(toy, done), getattr(transfer, step), list[int]()

    def interrupted(*arguments: Any) -> None:
        real(*arguments)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(transfer, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            import_runs(file, other)
    took = import_runs(file, other)
    assert 0 < len(took.new) < 6
    for one in (done.run_id, *(str(outcome.run_id) for outcome in done.outcomes)):
        assert content(other, one) == content(done.store.uri, one)


def test_ids_are_mapped_where_a_store_gives_its_own(
    toy: Toy, done: Result, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = exported(toy, done)
    monkeypatch.setattr(transfer, "database_of", lambda uri: None)  # as of a server
    real = server.connected
    monkeypatch.setattr(
        "quala.workflow.store.connected", lambda uri: server._Served(real(uri), uri)
    )
    took = import_runs(file, other)
    assert not set(took.ids.values()) & set(took.ids)
    store = Tracking.connect(other)
    tags = store.client.get_run(took.ids[done.run_id]).data.tags
    third = took.ids[str(done.outcomes[-1].run_id)]
    assert tags[f"{STAGE}.third"] == third
    assert store.client.get_run(third).data.tags[PARENT] == took.ids[done.run_id]
    again = toy.run(f"tracking.folder={toy.folder}/other")
    assert [one.status for one in again.outcomes] == ["cached"] * 3
    assert len(candidates(again.store, third)) == 2
    assert not import_runs(file, other).new


def test_a_sweep_goes_with_its_jobs(toy: Toy, other: str) -> None:
    done = toy.run("flow.until=first")
    store = done.store
    sweep = store.create("toy sweep", {"quala.kind": "sweep"}, None).info.run_id
    job = {"job": 0, "overrides": [], "status": "FINISHED", "run_id": done.run_id, "error": None}
    store.client.set_tag(sweep, "quala.job.0", json.dumps(job))
    inventory = held(store.uri)
    with pytest.raises(QualaError, match=r"is not finished \(running\)"):
        export_runs(inventory, [inventory.find(sweep)], toy.folder / "x")
    store.finish(sweep)
    inventory = held(store.uri)
    export_runs(inventory, [inventory.find(sweep)], toy.folder / "x")
    import_runs(toy.folder / "x", other)
    found = held(other)
    assert [one.info.run_id for one in found.jobs(found.find(sweep))] == [done.run_id]


def test_a_stage_of_another_workflow_belongs_to_the_one_that_is_exported(
    toy: Toy, done: Result, other: str
) -> None:
    second = toy.run("stage.third.text=other")
    import_runs(exported(toy, second), other)
    first = Tracking.connect(other).get(str(second.outcomes[0].run_id))
    assert first.data.tags[PARENT] == second.run_id


def test_a_damaged_output_is_not_exported(toy: Toy, done: Result) -> None:
    folder = done.outcomes[0].folder
    assert folder is not None
    (folder / "text.txt").write_text("other")
    with pytest.raises(QualaError, match=r"`text.txt` of run .* is damaged"):
        exported(toy, done)
    assert not list(toy.folder.glob("runs.zip*"))


def test_what_is_there_is_not_written_over(toy: Toy, done: Result) -> None:
    (toy.folder / "runs.zip").touch()
    with pytest.raises(QualaError, match=r"`--out` must be new"):
        exported(toy, done)


def test_another_run_of_the_same_id_is_refused(toy: Toy, done: Result, other: str) -> None:
    file = exported(toy, done)
    import_runs(file, other)
    store = Tracking.connect(other)
    store.client.set_tag(str(done.outcomes[0].run_id), FINGERPRINT, "other")
    with pytest.raises(QualaError, match="has another run"):
        import_runs(file, other)
    store.client.delete_run(str(done.outcomes[0].run_id))
    with pytest.raises(QualaError, match=r"was deleted from .*: restore it"):
        import_runs(file, other)


Change = Callable[[Path, str], object]


def edited(**changes: Any) -> Change:
    def change(folder: Path, run_id: str) -> None:
        file = folder / "runs" / run_id / "run.json"
        records = json.loads(file.read_text())
        records[0] |= changes
        file.write_text(json.dumps(records))

    return change


def index(**changes: Any) -> Change:
    def change(folder: Path, run_id: str) -> None:
        file = folder / "quala-store.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def of_output(folder: Path, run_id: str) -> Path:
    return folder / "runs" / run_id / "artifacts/output"


HOSTILE: dict[str, tuple[Change, str]] = {
    "another id": (edited(run_id="../../x"), "must be 32 hexadecimal digits"),
    "an id of another": (edited(run_id="0" * 32), "is not of the run that it is named by"),
    "an experiment with a path": (edited(experiment="../../x"), "`.*experiment` must"),
    "a number as text": (edited(start="1"), "start` must be a whole number"),
    "tags that are a list": (edited(tags=[]), "tags` must be an object"),
    "a metric that is no number": (
        edited(metrics={"a": [["x", 0, 0]]}),
        "`.*metrics.a` must hold numbers, got `x`",
    ),
    "a time without a date": (edited(end=2**60), "must be times"),
    "a tag that is too long": (edited(tags={"a": "x" * 9000}), "longer than MLflow allows"),
    "another kind": (edited(tags={"quala.kind": "x"}), "is not of the run that it is named by"),
    "a run that is a path": (index(runs=["../x"]), "is no id of a run"),
    "a later format": (index(format=2), "has the format 2"),
    "an output that was changed": (
        lambda folder, run_id: (of_output(folder, run_id) / "text.txt").write_text("x"),
        "`text.txt` of run",
    ),
    "an output with another manifest": (
        lambda folder, run_id: (
            (of_output(folder, run_id) / "text.txt").write_text("x"),
            write_manifest(of_output(folder, run_id)),
        ),
        "`manifest.json` of run .* is not the one that was written",
    ),
    "a link": (
        lambda folder, run_id: (of_output(folder, run_id) / "link").symlink_to("/etc/passwd"),
        "is a link, which no export holds",
    ),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The place of an export that several tests change a copy of."""
    return tmp_path_factory.mktemp("kept") / "export"


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_export_is_refused_before_anything_is_written(
    kind: str, toy: Toy, other: str, kept: Path
) -> None:
    if not kept.exists():
        exported(toy, toy.run("flow.until=first"), "made").rename(kept)
    folder = shutil.copytree(kept, toy.folder / "folder")
    change, sentence = HOSTILE[kind]
    change(folder, json.loads((kept / "quala-store.json").read_text())["runs"][0])
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    with pytest.raises(QualaError, match=sentence):
        import_runs(folder, other)
    assert not held(other).runs
    assert not (toy.folder / "other/artifacts").exists()


def test_an_export_that_was_changed_is_refused(toy: Toy, done: Result, other: str) -> None:
    folder = exported(toy, done, "folder")
    edited(name="x")(folder, str(done.outcomes[0].run_id))
    with pytest.raises(QualaError, match=r"`runs/.*/run.json` of the export has"):
        import_runs(folder, other)


@pytest.mark.parametrize(
    "name",
    ["../out.txt", "/tmp/out.txt", "a/../../out.txt", "c:\\out.txt", "a/" * 40, "x" * 300],
)
def test_a_file_outside_of_an_archive_is_refused(toy: Toy, name: str, other: str) -> None:
    with zipfile.ZipFile(toy.folder / "x.zip", "w") as archive:
        archive.writestr(name, "x")
    with pytest.raises(QualaError, match=r"is not of an export"):
        import_runs(toy.folder / "x.zip", other)
    assert not list(toy.folder.rglob("out.txt"))


def test_what_grows_is_refused(toy: Toy, other: str) -> None:
    with zipfile.ZipFile(toy.folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large", bytes(2**20))
    with pytest.raises(QualaError, match=r"holds more than its size"):
        import_runs(toy.folder / "x.zip", other)


def test_a_name_that_comes_twice_is_refused(toy: Toy, other: str) -> None:
    with zipfile.ZipFile(toy.folder / "x.zip", "w") as archive:
        archive.writestr("a", "x")
        archive.writestr("a/b", "x")
    with pytest.raises(QualaError, match=r"is no whole export"):
        import_runs(toy.folder / "x.zip", other)


@pytest.mark.parametrize("cut", ["text", "half"])
def test_what_is_no_archive_is_refused(toy: Toy, done: Result, other: str, cut: str) -> None:
    file = exported(toy, done)
    content = b"text" if cut == "text" else file.read_bytes()[: os.path.getsize(file) // 2]
    file.write_bytes(content)
    with pytest.raises(QualaError, match=r"is no whole export"):
        import_runs(file, other)


def test_what_is_not_there_is_refused(toy: Toy, other: str) -> None:
    with pytest.raises(QualaError, match="There is no file or folder"):
        import_runs(toy.folder / "no.zip", other)


def test_a_plan_knows_what_was_imported(toy: Toy, done: Result, other: str) -> None:
    from quala.workflow.compose import composed, typed

    import_runs(exported(toy, done), other)
    settings = typed(composed(toy.workflow, [f"tracking.folder={toy.folder}/other"]), toy.workflow)
    store = Store.open(settings.tracking)
    plan = make_plan(toy.workflow, settings, store, Sources(store))
    assert [entry.status for entry in plan.entries.values()] == ["cached"] * 3
