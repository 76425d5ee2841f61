"""The addresses of artifacts in a SQLite store, which follow the store when its folder moves.

MLflow records absolute addresses, and its own tools read no others in any folder. So they stay
absolute, and are renewed when a store is opened where they do not belong: in the database, or in
the memory of this process while that is read-only or another process works with it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from quala.workflow.database import connect, until_free

log = logging.getLogger(__name__)

ARTIFACTS = "artifacts"
"""The folder beside the database, with a folder for each experiment."""
HEARTBEAT = "mlflow.quala.heartbeat"
SECONDS_TO_LIVE = 60.0
"""How long a run without a heartbeat counts as under way."""
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)
_UNDER_WAY = f"""
    SELECT 1 FROM runs LEFT JOIN tags ON tags.run_uuid = runs.run_uuid
    AND key IN ('{HEARTBEAT}', 'quala.heartbeat')
    WHERE status = 'RUNNING' AND lifecycle_stage = 'active'
    AND max(start_time / 1000, coalesce(CAST(value AS REAL), 0)) > ?
"""
_views: dict[str, Mapping[str, str]] = {}
"""By database: the recorded address of a folder of artifacts, and the one it has here."""


def local_folder(address: str) -> Path | None:
    """Return the folder of a local address, None for one on a server."""
    parts = urlsplit(address)
    if parts.scheme not in ("", "file"):
        return None
    return Path(url2pathname(parts.path) if parts.scheme else address)


def follow(path: Path) -> None:
    """Make the addresses of a database name the folder that it lies in now.

    A copy has the addresses of its original, which it neither reads nor changes from then on. An
    address stays where the artifacts are in another place on purpose, see `tracking.folder`: no
    run has its folder beside the database then.
    """
    path = path.absolute()
    _views.pop(str(path), None)
    if (module := sys.modules.get("mlflow.tracking._tracking_service.utils")) is not None:
        module._artifact_repos_cache.clear()  # by the id of a run, whatever the store
    try:
        with closing(connect(path)) as database:
            moves = _moves(database, path)
            if not moves:
                return
            _views[str(path)] = moves
            _translate()
            # Two processes may find it out at once, and one may begin a run meanwhile.
            database.execute("BEGIN IMMEDIATE")
            if database.execute(_UNDER_WAY, (time.time() - SECONDS_TO_LIVE,)).fetchone():
                log.info("Runs of `%s` are under way by another path of it.", path)
                return
            moves = _moves(database, path)
            for before, now in moves.items():
                _rewrite(database, before, now)
            used = database.execute("SELECT 1 FROM runs").fetchone() is not None
            database.execute("COMMIT")
    except sqlite3.Error as error:  # read-only, locked, or no store of MLflow's
        if "locked" in str(error) and str(path) not in _views:
            until_free(path)
            follow(path)
        return
    _views.pop(str(path), None)
    for before, now in moves.items() if used else ():
        old, new = (local_folder(one.rpartition("/")[0]) for one in (before, now))
        log.warning("This store was in %s: its addresses now name %s.", old, new)


def _moves(database: sqlite3.Connection, path: Path) -> dict[str, str]:
    """Return the addresses of the artifacts' folders that are to be replaced, and by which."""
    found = {}
    places = database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    for before in sorted({str(place).rpartition("/")[0] for (place,) in places}):
        root = local_folder(before)
        if before.startswith("file:") and root is not None and root.name == ARTIFACTS:
            tails = [
                url2pathname(tail).lstrip("/")
                for (tail,) in database.execute(
                    "SELECT substr(artifact_uri, :n) FROM runs WHERE substr(artifact_uri, 1, :n)"
                    " = :before || '/' ORDER BY start_time",
                    {"before": before, "n": len(before) + 1},
                )
            ]
            now = _present(root, path, tails)
            if now is not None and now.as_uri() != before:
                found[before] = now.as_uri()
    return found


def _present(root: Path, path: Path, tails: list[str]) -> Path | None:
    """Return where the artifacts that were in `root` are, None where they did not move."""
    beside = path.parent / ARTIFACTS
    for place in (beside, path.parent / root.parent.name / ARTIFACTS):
        if any(os.path.isdir(place / tail) for tail in tails):
            same = os.path.isdir(root) and os.path.samefile(root, place)  # by a link
            return None if same else place
    # A store without runs: it was moved, or the original has its database still.
    old = root.parent
    empty = not tails and (not os.path.isdir(old) or os.path.isfile(old / path.name))
    linked = os.path.isdir(old) and os.path.samefile(old, path.parent)
    return beside if empty and not linked else None


def _rewrite(database: sqlite3.Connection, before: str, now: str) -> None:
    known = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    for table, column in _COLUMNS:
        if table in known:
            database.execute(
                f"UPDATE {table} SET {column} = :now || substr({column}, :n + 1)"
                f" WHERE {column} = :before OR substr({column}, 1, :n + 1) = :before || '/'",
                {"now": now, "before": before, "n": len(before)},
            )


_translated: list[bool] = []


def _translate() -> None:
    """Let MLflow read the addresses of `_views` as those here, and write the recorded ones."""
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
    from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlLoggedModel, SqlRun
    from sqlalchemy import event
    from sqlalchemy.orm.attributes import set_committed_value

    if _translated:
        return
    _translated.append(True)
    columns = {
        SqlExperiment: "artifact_location",
        SqlRun: "artifact_uri",
        SqlLoggedModel: "artifact_location",
        SqlModelVersion: "storage_location",
    }

    def here(target: Any, engine: Any, *, recorded: bool = False) -> None:
        view = _views.get(os.path.abspath(engine.url.database or ""), {}) if _views else {}
        column = columns[type(target)]
        address = target.__dict__.get(column) or ""
        for before, now in view.items():
            old, new = (now, before) if recorded else (before, now)
            if address == old or address.startswith(f"{old}/"):
                set_committed_value(target, column, new + address[len(old) :])
                return

    def read(target: Any, context: Any, *_: Any) -> None:
        here(target, context.session.get_bind())

    def write(_: Any, connection: Any, target: Any) -> None:
        here(target, connection.engine, recorded=True)

    def written(_: Any, connection: Any, target: Any) -> None:
        here(target, connection.engine)

    for kind in columns:
        event.listen(kind, "load", read)
        event.listen(kind, "refresh", read)
        event.listen(kind, "before_insert", write)
        event.listen(kind, "after_insert", written)
