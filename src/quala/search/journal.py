"""The study on disk: an append-only journal that survives a kill at any moment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from quala.errors import QualaError

STUDY = "search"
IDENTITY = "identity"
_FILE = "study.journal"


def open_study(folder: Path, sampler: BaseSampler, *, identity: Mapping[str, Any]) -> optuna.Study:
    """Open the study of a folder, or create it: maximise the score, minimise the cost.

    Raises QualaError when the folder holds a search with another `identity`.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    path = (folder / _FILE).resolve()
    _mend(path)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        sampler=sampler,
        study_name=STUDY,
        directions=["maximize", "minimize"],
        load_if_exists=True,
    )
    stored = study.user_attrs.get(IDENTITY)
    if stored is None:
        study.set_user_attr(IDENTITY, dict(identity))
    elif stored != identity:
        changed = sorted(key for key in identity if stored.get(key) != identity[key])
        raise QualaError(
            f"The folder `{folder}` holds a search with other settings ({', '.join(changed)}); "
            "use another folder."
        )
    return study


def _mend(path: Path) -> None:
    """Cut off a last line that its writer was killed in: Optuna could not read past it."""
    if not path.exists():
        return
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        with path.open("r+b") as file:
            whole = file.read()
            if not whole.endswith(b"\n"):
                file.truncate(whole.rfind(b"\n") + 1)
    finally:
        lock.release()
