"""A store that is moved, copied, linked, read-only, or seen by two paths at once."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tracked import Tracked, files

from quala.errors import QualaError
from quala.workflow import addresses
from quala.workflow.addresses import HEARTBEAT, follow
from quala.workflow.execute import Result
from quala.workflow.registry import register
from quala.workflow.settings import TrackingConfig
from quala.workflow.store import Store
from quala.workflow.tracking import Tracking

if TYPE_CHECKING:
    from conftest import Toy


def database(folder: Path) -> Path:
    return folder / "mlruns" / "mlflow.db"


def recorded(folder: Path) -> set[str]:
    """Return the folders that the addresses in a database name."""
    columns = [
        "artifact_location FROM experiments",
        "artifact_uri FROM runs",
        "artifact_location FROM logged_models",
        "storage_location FROM model_versions",
    ]
    with closing(sqlite3.connect(database(folder))) as opened:
        found = [row[0] for one in columns for row in opened.execute(f"SELECT {one}")]
    return {one.partition("/artifacts/")[0] for one in found if one.startswith("file:")}


def address(folder: Path) -> str:
    return (folder / "mlruns").as_uri()


def reopened(folder: Path) -> Tracking:
    return Tracking.connect(f"sqlite:///{database(folder)}")


def all_readable(folder: Path, done: Result) -> None:
    store = reopened(folder)
    for outcome in done.outcomes:
        assert folder in store.output(f"runs:/{outcome.run_id}/output").parents


@pytest.fixture
def done(toy: Toy) -> Result:
    """A finished workflow whose last stage is registered, with a model of MLflow's own."""
    found = toy.run()
    stage = str(found.outcomes[-1].run_id)
    register(found.store, "model", stage, stage, "chosen")
    found.store.client.create_logged_model(found.store.experiment_id, name="own")
    return found


def move(toy: Toy, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    sys.modules.pop("toy_stages", None)
    # The folder of the test itself must stay.
    to.mkdir()
    for path in list(toy.folder.iterdir()):
        if path.name != to.name:
            path.rename(to / path.name)
    monkeypatch.chdir(to)
    monkeypatch.syspath_prepend(str(to))
    monkeypatch.setenv("TOY_LOG", str(to / "log.txt"))
    toy.folder, toy.script, toy.log = to, to / "toy.py", to / "log.txt"


def test_a_project_that_was_moved_goes_on(
    toy: Toy, done: Result, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = toy.folder, toy.folder / "new place"
    move(toy, new, monkeypatch)
    again = toy.run()
    assert again.reused
    assert [one.status for one in again.outcomes] == ["cached"] * 3
    assert recorded(new) == {address(new)}
    assert caplog.text.count(f"This store was in {old}/mlruns: its addresses now name {new}") == 1
    assert reopened(new).output("models:/model@chosen") == again.outcomes[-1].folder
    assert toy.run("stage.first.text=b").outcomes[0].status == "done"
    assert [path.name for path in old.iterdir()] == ["new place"]


def test_what_was_interrupted_is_resumed_after_a_move(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="told to fail"):
        toy.run("stage.second.fail=true")
    move(toy, toy.folder / "new", monkeypatch)
    assert [one.status for one in toy.run().outcomes] == ["cached", "resumed", "done"]


def test_data_that_was_moved_too_is_the_same(tmp_path: Path, migrated_database: Path) -> None:
    (tmp_path / "old").mkdir()
    shutil.copy(migrated_database, tmp_path / "old/mlflow.db")
    data = files(tmp_path / "old/questions", task="squad")
    first = Tracked(tmp_path / "old").run("kdlsq", data=data)
    (tmp_path / "old").rename(tmp_path / "new")
    data = replace(data, path=str(tmp_path / "new/questions"))
    assert Tracked(tmp_path / "new").run("kdlsq", data=data) == first


def test_a_copy_and_its_original_are_two_stores(
    toy: Toy, done: Result, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(toy.folder / "mlruns", copy / "mlruns")
    all_readable(copy, done)
    assert recorded(copy) == {address(copy)}
    assert recorded(toy.folder) == {address(toy.folder)}
    shutil.rmtree(copy / "mlruns/artifacts/toy" / str(done.outcomes[0].run_id))
    all_readable(toy.folder, done)
    with pytest.raises(QualaError, match=r"cannot be read|is damaged"):
        all_readable(copy, done)  # which the original has
    shutil.rmtree(toy.folder / "mlruns")
    store = reopened(copy)
    assert store.output(f"runs:/{done.outcomes[1].run_id}/output").is_dir()


@pytest.mark.parametrize("original", ["there", "gone"])
def test_a_store_without_runs_follows(toy: Toy, original: str) -> None:
    tracking = TrackingConfig(None, str(toy.folder / "mlruns"), None, "x")
    Store.open(tracking)
    shutil.copytree(toy.folder / "mlruns", toy.folder / "new/mlruns")
    if original == "gone":
        shutil.rmtree(toy.folder / "mlruns")
    Store.open(TrackingConfig(None, str(toy.folder / "new/mlruns"), None, "x"))
    assert recorded(toy.folder / "new") == {address(toy.folder / "new")}


def test_a_path_by_a_link_changes_nothing(toy: Toy, done: Result) -> None:
    (toy.folder / "link").mkdir()
    (toy.folder / "link/mlruns").symlink_to(toy.folder / "mlruns")
    reopened(toy.folder / "link").output(f"runs:/{done.outcomes[0].run_id}/output")
    assert recorded(toy.folder) == {address(toy.folder)}


def test_artifacts_in_another_place_on_purpose_stay(toy: Toy) -> None:
    elsewhere = toy.folder / "disk"
    uri = f"sqlite:///{toy.folder}/mlruns/mlflow.db"
    (toy.folder / "mlruns/artifacts").mkdir()
    for text in ("a", "b"):
        done = toy.run(f"tracking.uri={uri}", f"tracking.folder={elsewhere}",
                       f"stage.first.text={text}", "tracking.experiment=x")  # fmt: skip
        assert done.outcomes[0].folder is not None
        assert elsewhere in done.outcomes[0].folder.parents


def test_a_database_outside_of_the_folder_follows_it(toy: Toy) -> None:
    where = toy.folder / "project"
    words = "tracking.uri=sqlite:///{0}/own.db tracking.folder={0}/mlruns"
    done = toy.run(*words.format(where).split())
    where.rename(toy.folder / "moved")
    again = toy.run(*words.format(toy.folder / "moved").split())
    assert again.run_id == done.run_id
    assert not where.exists()


def test_an_address_that_only_begins_the_same_stays(toy: Toy, done: Result) -> None:
    other = f"{address(toy.folder)}/artifacts-of-others/1"
    done.store.client.create_experiment("others", artifact_location=other)
    (toy.folder / "mlruns").rename(toy.folder / "moved")
    follow(toy.folder / "moved/mlflow.db")
    with closing(sqlite3.connect(toy.folder / "moved/mlflow.db")) as opened:
        sql = "SELECT artifact_location FROM experiments WHERE name = 'others'"
        assert opened.execute(sql).fetchone() == (other,)


def read_only(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def connect(path: Path) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)

    monkeypatch.setattr(addresses, "connect", connect)


def under_way(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    with closing(sqlite3.connect(database(folder))) as opened, opened:
        opened.execute("UPDATE runs SET status = 'RUNNING' WHERE name = 'toy'")
        sql = f"INSERT INTO tags SELECT '{HEARTBEAT}', ?, run_uuid FROM runs WHERE name = 'toy'"
        opened.execute(f"DELETE FROM tags WHERE key = '{HEARTBEAT}'")
        opened.execute(sql, (str(time.time()),))


@pytest.mark.parametrize("state", [read_only, under_way])
def test_the_addresses_of_a_store_in_use_are_renewed_in_memory(
    state: Callable[[pytest.MonkeyPatch, Path], None],
    toy: Toy,
    done: Result,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new = toy.folder / "new"
    shutil.copytree(toy.folder / "mlruns", new / "mlruns")
    shutil.rmtree(toy.folder / "mlruns")
    with monkeypatch.context() as patched:
        state(patched, new)
        all_readable(new, done)
        assert reopened(new).output("models:/model@chosen").is_relative_to(new)
        assert recorded(new) == {address(toy.folder)}
        # What is recorded meanwhile has the address that the others expect.
        store = Store.open(TrackingConfig(None, str(new / "mlruns"), None, "toy"))
        made = store.create("run", {}, None).info
        store.attach(made.run_id, {"a.txt": "a"})
        found = store.client.get_run(made.run_id).info.artifact_uri
        assert made.artifact_uri == found
        assert found.startswith(address(new))
        assert recorded(new) == {address(toy.folder)}
        store.client.delete_run(made.run_id)
    assert not (toy.folder / "mlruns").exists()


def test_a_run_goes_on_when_its_addresses_were_renewed_by_another_path(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.run("flow.until=first")
    real = Store.create
    elsewhere = toy.folder / "elsewhere"

    def create(store: Store, *rest: Any) -> Any:
        """As another process does that sees the store by another path, just before the run."""
        if not elsewhere.exists():
            elsewhere.mkdir()
            with closing(sqlite3.connect(database(toy.folder))) as opened, opened:
                addresses._rewrite(
                    opened, f"{address(toy.folder)}/artifacts", f"{address(elsewhere)}/artifacts"
                )
        return real(store, *rest)

    monkeypatch.setattr(Store, "create", create)
    toy.run("flow.until=second")
    assert [one.status for one in toy.run().outcomes] == ["cached", "cached", "done"]
    assert not os.listdir(elsewhere)


def test_a_database_that_is_locked_is_waited_for(
    toy: Toy, done: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = toy.folder / "new"
    shutil.copytree(toy.folder / "mlruns", new / "mlruns")
    with closing(sqlite3.connect(database(new), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(addresses, "until_free", lambda path: other.execute("ROLLBACK"))
        follow(database(new))
    assert recorded(new) == {address(new)}


def test_a_database_of_others_is_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as opened:
        opened.execute("CREATE TABLE runs (run_uuid TEXT)")
    follow(tmp_path / "other.db")
