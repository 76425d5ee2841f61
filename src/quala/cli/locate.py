"""Find the folder that a MODEL on the command line means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from quala.errors import QualaError
from quala.runtime.pretrained import shipped

if TYPE_CHECKING:
    import argparse

    from mlflow import MlflowClient


RUN_ID = re.compile(r"(runs:/)?([0-9a-f]{32})")
EXPORT_STAGE = "export"


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add MODEL and the store in which it may lie."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="an export folder, a run id, models:/NAME@ALIAS, or a model that comes with quala",
    )
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="the store of runs and models (default: sqlite:///<this folder>/mlruns/mlflow.db)",
    )


def locate_model(model: str, tracking_uri: str | None) -> Path:
    """Return the folder of an export or checkpoint; tracked ones are fetched from the store.

    Raises QualaError when there is no such folder, run or model.
    """
    if Path(model).is_dir():
        return Path(model)
    known = shipped()
    if model in known:
        return known[model]
    run = RUN_ID.fullmatch(model)
    if not run and not model.startswith("models:/"):
        names = f"; models that come with quala: {', '.join(known)}" if known else ""
        raise QualaError(
            f"`{model}` is no folder, run id or models:/NAME@ALIAS that exists{names}."
        )
    from quala.compare.store import default_tracking_uri, require_store

    uri = tracking_uri or default_tracking_uri(Path.cwd())
    require_store(uri)
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        if run:
            return _export_of(run[2], uri)
        mlflow.set_registry_uri(uri)
        return Path(mlflow.artifacts.download_artifacts(model, tracking_uri=uri))
    except (MlflowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise QualaError(f"`{model}` cannot be read from {uri}: {reason}") from error


def _export_of(run_id: str, uri: str) -> Path:
    from mlflow import MlflowClient

    from quala.workflow.store import OUTPUT

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    return Path(client.download_artifacts(export_run(client, run_id), OUTPUT))


def export_run(client: MlflowClient, run_id: str) -> str:
    """Return the stage run that holds a workflow's export; a run without one is returned."""
    from quala.workflow.store import STAGE

    tags = client.get_run(run_id).data.tags
    return str(tags.get(f"{STAGE}.{EXPORT_STAGE}") or run_id)
