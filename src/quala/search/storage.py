"""Where studies are kept: a journal that survives a kill at any moment, or a database."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy import NullPool, create_engine, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from quala.errors import QualaError, quoted
from quala.ranges import SQLITE_HEAD
from quala.redact import hide_password

log = logging.getLogger(__name__)

JOURNAL = "study.journal"
DATABASES = ("sqlite", "postgresql", "mysql")
"""Kinds of databases, as their addresses begin; a driver may follow, `postgresql+psycopg2`."""
PACKAGES = {
    "psycopg": '"psycopg[binary]"',
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
}
"""What to install for a driver that is missing, where its package has another name."""
SECONDS = {"pysqlite": {"timeout": 60}, "psycopg": {"connect_timeout": 10}}
SECONDS["psycopg2"] = SECONDS["psycopg"]
"""How long a database is waited for, as its driver calls it."""
_ENTRY = b'{"op_code"'
"""As each line of a journal begins."""


def check_storage(place: str) -> None:
    """Raise QualaError unless studies can be kept at a place: see `open_storage`.

    A database must answer. It must be of Optuna alone, or empty: MLflow's has a table of the same
    name for its own versions.
    """
    hide_password(place)
    if "://" not in place:
        _check_file(place)
        return
    kind = place.partition("://")[0].partition("+")[0]
    if kind not in DATABASES:
        raise QualaError(
            f"`storage` must be the path of a journal file or begin with one of "
            f"{', '.join(f'{one}://' for one in DATABASES)}, got `{quoted(place, 40)}`."
        )
    with explained(place):
        url = make_url(place)
        if kind == "sqlite":
            if url.database in (None, "", ":memory:"):
                raise QualaError(f"`storage` must name a file, sqlite:///FILE, got `{place}`.")
            if not Path(str(url.database)).exists():
                _check_folder(Path(str(url.database)))
                return
        try:
            engine = create_engine(url, **_engine_options(url))
        except ModuleNotFoundError as error:
            package = PACKAGES.get(str(error.name), error.name)
            raise QualaError(f"`storage={place}` needs a driver: pip install {package}") from error
        with engine.connect() as connection:
            tables = inspect(connection).get_table_names()
        engine.dispose()
    if "alembic_version" in tables and "studies" not in tables:
        other = "MLflow" if "experiments" in tables else "another program"
        raise QualaError(
            f"`storage` must be a database of its own, and `{quoted(place)}` is one of {other}."
        )


def _check_file(place: str) -> None:
    path = Path(place).expanduser()
    if not path.exists():
        _check_folder(path)
        return
    head = b"?"  # a folder
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(len(SQLITE_HEAD))
    # A kill may leave a part of the first line, a power cut zeros; all else is not ours to mend.
    begins = head[: len(_ENTRY)]
    if begins.strip(b"\0") and not _ENTRY.startswith(begins):
        hint = f"; a SQLite database is sqlite:///{place}" if head == SQLITE_HEAD else ""
        raise QualaError(f"`storage` must be a journal of Optuna, and `{place}` is none{hint}.")


def _check_folder(path: Path) -> None:
    there = next(one for one in path.absolute().parents if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise QualaError(f"`storage` cannot be made: `{there}` is no folder to write to.")


@contextmanager
def explained(place: str | None) -> Iterator[None]:
    """Raise QualaError with the reason where a database fails."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        if place is None:
            raise
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise QualaError(f"`storage={place}` cannot be used: {reason}") from error


def _engine_options(url: URL) -> dict[str, Any]:
    options: dict[str, Any] = {"connect_args": SECONDS.get(url.get_driver_name(), {})}
    if url.get_backend_name() == "sqlite":
        return options | {"poolclass": NullPool}  # leaves no file open
    return options | {"pool_pre_ping": True}


def open_storage(place: str) -> BaseStorage:
    """Open where studies are kept: a database by its address, or the path of a journal file.

    What is missing is made. Raises QualaError as `check_storage`.
    """
    check_storage(place)
    if "://" not in place:
        path = Path(place).expanduser().absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        return open_journal(path)
    url = make_url(place)
    if url.get_backend_name() == "sqlite":
        Path(str(url.database)).absolute().parent.mkdir(parents=True, exist_ok=True)
    with explained(place):
        return RDBStorage(place, engine_kwargs=_engine_options(url))


def open_journal(path: Path) -> JournalStorage:
    """Open the file of a study; what a kill or a power cut left of its end is cut off."""
    mend(path)
    return JournalStorage(JournalFileBackend(str(path), JournalLock(path)))


class JournalLock(JournalFileSymlinkLock):
    """A lock that the system takes from a process that dies; Optuna's stays for 30 s.

    Raises OSError on a file system without locks.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path.with_name(f"{path.name}.lock")
        if self._path.is_symlink():
            self._path.unlink()  # Optuna's own, left by a killed search of an earlier version

    def acquire(self) -> bool:
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o666)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        os.close(self._descriptor)

    close = release


def mend(path: Path) -> None:
    """Cut off what Optuna could not read: a last line without an end, or what is no JSON."""
    if not path.exists():
        return
    lock = JournalLock(path)
    lock.acquire()
    with closing(lock), path.open("r+b") as file:
        whole, end = file.read(), 0
        for line in whole.splitlines(keepends=True):
            if not line.endswith(b"\n") or not _is_entry(line):
                break
            end += len(line)
        if end < len(whole):
            # A kill leaves part of one line; more than that is lost after a power cut.
            log.warning("The end of `%s` is torn: the search goes on from before it.", path)
            file.truncate(end)
            os.fsync(file.fileno())


def _is_entry(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes that work in the folder of a search waiting."""
    lock = JournalLock(folder / "search")
    lock.acquire()
    with closing(lock):
        yield


def read_study(folder: Path, into: BaseStorage, label: str = "") -> None:
    """Copy the study that a search left in a folder; the folder stays as it is.

    Its name gets the label, and a number where it is taken. Raises QualaError where there is none.
    """
    path = folder / JOURNAL
    if not path.is_file():
        raise QualaError(f"`{folder}` holds no study of a search ({JOURNAL}).")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = JournalStorage(JournalFileBackend(str(path)))
    name = optuna.get_all_study_names(journal)[0]
    labeled, taken = f"{name} {label}".strip(), optuna.get_all_study_names(into)
    names = (labeled if number == 1 else f"{labeled} {number}" for number in count(1))
    new = next(one for one in names if one not in taken)
    optuna.copy_study(
        from_study_name=name, from_storage=journal, to_storage=into, to_study_name=new
    )


def export_study(study: optuna.Study, folder: Path) -> None:
    """Copy a study into a journal of its own; the file is whole or as it was."""
    partial = folder / f"{JOURNAL}.partial"
    partial.unlink(missing_ok=True)
    optuna.copy_study(
        from_study_name=study.study_name,
        from_storage=study._storage,
        to_storage=open_journal(partial),
    )
    os.replace(partial, folder / JOURNAL)
