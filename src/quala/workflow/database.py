"""The SQLite database of a tracking store: made once, checked, waited for while it is locked."""

from __future__ import annotations

import logging
import math
import os
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from quala.errors import QualaError

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

SQLITE = "sqlite:///"
SECONDS_TO_WAIT = 120.0
"""How long a locked database is waited for: backups and copies take a minute. A guess."""
SECONDS_OF_SILENCE = 5.0


class LockedError(QualaError):
    """A database that another process has locked for too long."""


def database_of(uri: str) -> Path | None:
    """Return the file of a SQLite store, None for other stores."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def ensure_database(path: Path, artifacts: Path) -> None:
    """Create an MLflow database at `path` unless it exists.

    MLflow's migrations race when several processes meet a fresh file. So each process makes a
    file of its own, and a hard link gives exactly one of them the name.
    """
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    try:
        store = SqlAlchemyStore(f"{SQLITE}{draft}", artifacts.as_uri())
        store.engine.dispose()
        _publish(draft, path)
    finally:
        for left in path.parent.glob(f"{draft.name}*"):  # with SQLite's journal
            left.unlink(missing_ok=True)


def _publish(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    except OSError:
        # A file system without hard links: a rename leaves a very small race.
        if not path.exists():
            draft.rename(path)


def check_database(path: Path) -> None:
    """Wait until a database can be read. Raises QualaError for one that is empty or damaged."""
    if path.is_file() and path.stat().st_size == 0:
        reason = "it is empty"
    else:
        until_free(path)
        try:
            with closing(connect(path)) as database:
                database.execute("SELECT count(*) FROM sqlite_master")
            return
        except sqlite3.OperationalError:
            return  # MLflow will say it, or wait
        except sqlite3.DatabaseError as error:
            reason = str(error)
    raise QualaError(
        f"The tracking database `{path}` is damaged ({reason}), as after a power cut: put a copy "
        "of it back, or move it away to begin a new one."
    )


def patient_client(make: Callable[[], MlflowClient], uri: str) -> MlflowClient:
    """Return a client whose calls wait while another process has the database locked.

    They raise LockedError in the end. MLflow itself gives up after 20 s, with a traceback.
    """
    path = database_of(uri)
    if path is None:
        return make()
    return cast("MlflowClient", _Patient(_waiting(make, path), path))


@dataclass(frozen=True)
class _Patient:
    client: MlflowClient
    path: Path

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        return lambda *args, **named: _waiting(lambda: method(*args, **named), self.path)


def _waiting(call: Callable[[], Any], path: Path) -> Any:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    limit = time.monotonic() + SECONDS_TO_WAIT
    while True:
        try:
            return call()
        except (MlflowException, SQLAlchemyError) as error:
            if "database is locked" not in str(error):
                raise
            until_free(path, limit, "BEGIN IMMEDIATE")


def until_free(
    path: Path, limit: float = math.inf, statement: str = "SELECT count(*) FROM sqlite_master"
) -> None:
    """Wait until the statement is not refused for a lock; raise LockedError in the end."""
    began, said = time.monotonic(), False
    limit = min(limit, began + SECONDS_TO_WAIT)
    while True:
        try:
            with closing(connect(path)) as database:
                database.execute(statement)
            return
        except sqlite3.Error as error:
            if "locked" not in str(error):
                return  # the caller meets it
        now = time.monotonic()
        if now > limit:
            raise LockedError(
                f"The tracking database `{path}` has been locked by another process for "
                f"{SECONDS_TO_WAIT:.0f} s; the same command goes on when it is free."
            )
        if not said and now - began > SECONDS_OF_SILENCE:
            said = True
            log.warning("`%s` is locked by another process; waiting for it.", path)


def connect(path: Path) -> sqlite3.Connection:
    """Open a database that exists, in transactions that are stated."""
    address = f"file:{quote(str(path))}?mode=rw"
    return sqlite3.connect(address, uri=True, timeout=1.0, isolation_level=None)
