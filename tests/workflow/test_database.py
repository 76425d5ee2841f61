"""A database that is damaged is named, one that is locked is waited for."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from quala.errors import QualaError
from quala.workflow import database
from quala.workflow.database import LockedError, check_database, patient_client
from quala.workflow.settings import TrackingConfig
from quala.workflow.store import Store
from quala.workflow.tracking import existing_store


@pytest.fixture
def path(tmp_path: Path, template: Path) -> Path:
    shutil.copy(template, tmp_path / "mlflow.db")
    return tmp_path / "mlflow.db"


@pytest.fixture
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    yield other
    other.close()


@pytest.mark.parametrize("harm", ["emptied", "shortened", "zeroed", "garbled"])
def test_a_torn_database_is_one_sentence(path: Path, harm: str) -> None:
    raw = path.read_bytes()
    torn = {"emptied": b"", "shortened": raw[:20_000], "zeroed": bytes(len(raw))}
    path.write_bytes(torn.get(harm, b"garbage " * 1000))
    tracking = TrackingConfig(uri=None, folder=str(path.parent), work=None, experiment="x")
    with pytest.raises(QualaError, match=rf"`{path}` is damaged"):
        Store.open(tracking)
    with pytest.raises(QualaError, match=rf"`{path}` is damaged"):
        existing_store(f"sqlite:///{path}")


def test_a_locked_database_is_waited_for_and_that_is_said_once(
    path: Path,
    locked: sqlite3.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(database, "SECONDS_OF_SILENCE", 0.1)
    threading.Timer(2.5, lambda: locked.execute("ROLLBACK")).start()
    check_database(path)
    assert caplog.text.count("is locked by another process; waiting") == 1


def test_a_database_that_stays_locked_is_one_sentence(
    path: Path, locked: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "SECONDS_TO_WAIT", 0.5)
    with pytest.raises(LockedError, match=rf"`{path}` has been locked by another process"):
        check_database(path)


class Client:
    """Fails as MLflow does while a database is locked."""

    def __init__(self, path: Path) -> None:
        self.path, self.calls = path, 0

    def set_tag(self, run_id: str, key: str, *, value: str) -> str:
        self.calls += 1
        try:
            with sqlite3.connect(self.path, timeout=0.01) as other:
                other.execute("CREATE TABLE t (a)")
        except sqlite3.OperationalError as error:
            raise MlflowException(f"(sqlite3.OperationalError) {error}") from error
        return f"{run_id} {key} {value}"


def test_a_call_is_made_again_when_the_database_is_free(
    path: Path, locked: sqlite3.Connection
) -> None:
    made: Any = Client(path)
    client: Any = patient_client(lambda: made, f"sqlite:///{path}")
    threading.Timer(0.5, lambda: locked.execute("ROLLBACK")).start()
    assert client.set_tag("a", "b", value="c") == "a b c"
    assert made.calls == 2


def test_a_call_gives_up_in_the_end(
    path: Path, locked: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "SECONDS_TO_WAIT", 0.5)
    made: Any = Client(path)
    client: Any = patient_client(lambda: made, f"sqlite:///{path}")
    with pytest.raises(LockedError):
        client.set_tag("a", "b", value="c")


def test_other_errors_are_not_waited_for(path: Path) -> None:
    path.unlink()
    sqlite3.connect(path).execute("CREATE TABLE t (a)").connection.close()
    made: Any = Client(path)
    client: Any = patient_client(lambda: made, f"sqlite:///{path}")
    with pytest.raises(MlflowException, match="already exists"):
        client.set_tag("a", "b", value="c")
