"""The embedded MLflow database: made once, whoever comes first."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from quala.errors import QualaError

SECONDS_TO_ANSWER = 3.0


def ensure_database(path: Path, artifacts: Path) -> None:
    """Create an MLflow database at `path` unless it is there.

    MLflow's migrations race when several processes meet a fresh file, so each makes its own
    beside it, and the file system lets exactly one of them have the name.
    """
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    try:
        store = SqlAlchemyStore(f"sqlite:///{draft}", artifacts.as_uri())
        store.engine.dispose()
        _publish(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _publish(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    except OSError:
        # A file system without hard links; a plain rename is as good but for a tiny race.
        if not path.exists():
            draft.rename(path)


def check_server(uri: str) -> None:
    """Raise QualaError quickly if nothing answers at an http(s) tracking address."""
    parts = urlsplit(uri)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise QualaError(f"The tracking server {uri} does not answer ({error}).") from error
