"""Tags that only quala reads: their prefix, and the names that older versions gave them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.store.entities import PagedList

HIDDEN = "mlflow.quala."
"""Begins tags that are no use to a reader; MLflow's interface shows none that begins `mlflow.`."""
SHOWN = "quala."
"""Begins the others, and began all in older versions."""
_ONCE_SHOWN = re.compile(
    r"quala\.(fingerprint|stage|node|manifest|final|damaged|job|owner|heartbeat|released|held|data"
    r"|diff)\b"
)


def client_of(uri: str) -> MlflowClient:
    """Return a client whose runs have the tags of older versions by their names of today."""
    # mlflow takes seconds to import
    from mlflow import MlflowClient

    class Client(MlflowClient):
        def get_run(self, run_id: str) -> Run:
            return _named(super().get_run(run_id))

        def search_runs(self, *args: Any, **options: Any) -> PagedList[Run]:
            found = super().search_runs(*args, **options)
            for run in found:
                _named(run)
            return found

    return Client(tracking_uri=uri, registry_uri=uri)


def once_named(tags: dict[str, str]) -> dict[str, str]:
    """Return tags by the names that they had in older versions."""
    return {key.replace(HIDDEN, SHOWN): value for key, value in tags.items()}


def _named(run: Run) -> Run:
    tags = run.data.tags
    for key in [one for one in tags if _ONCE_SHOWN.match(one)]:
        tags.setdefault(f"mlflow.{key}", tags[key])
    return run
