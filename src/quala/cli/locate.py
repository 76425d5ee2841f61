"""Finds the folder of the MODEL that a command names."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from quala.cli.arguments import PLACE, add_store
from quala.cli.output import warn
from quala.errors import QualaError

if TYPE_CHECKING:
    import argparse


RUN_ID = re.compile(r"(runs:/)?([0-9a-f]{32})")
EXPORT_STAGE = "export"


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add MODEL and the address of the store of tracked models."""
    parser.add_argument(
        "model",
        type=PLACE,
        metavar="MODEL",
        help="an export folder, a run id, models:/NAME@ALIAS, OWNER/NAME on the hub, or a model "
        "that comes with quala",
    )
    add_store(parser, "the store of runs and models")


def locate_model(model: str, tracking_uri: str | None, *, checkpoints: bool = False) -> Path:
    """Return the folder of an export or checkpoint, fetched from the store or the hub.

    A folder wins over a model of its name that comes with quala, with a warning. Of one on the hub
    the weights are downloaded where it may be one of the `checkpoints`. Raises QualaError when
    there is no such folder, run or model, or a tracked one is damaged.
    """
    from quala.runtime.card import model_folder, shipped
    from quala.runtime.hub import OF_CHECKPOINTS, OF_EXPORTS, download, is_hub_name

    if (folder := model_folder(model, warn)) is not None:
        return folder
    run = RUN_ID.fullmatch(model)
    if not run and is_hub_name(model):
        return download(model, OF_CHECKPOINTS if checkpoints else OF_EXPORTS)
    if not run and not model.startswith("models:/"):
        raise QualaError(
            f"`{model}` is no folder, run id or models:/NAME@ALIAS that exists, nor OWNER/NAME on "
            f"the hub; models that come with quala: {', '.join(shipped()) or 'none'}."
        )
    check_known(tracking_uri, run[2] if run else model)
    from quala.workflow.tracking import OUTPUT, Tracking

    store = Tracking.connect(tracking_uri)
    if run:
        return store.output(f"runs:/{store.stage_run(run[2], EXPORT_STAGE)}/{OUTPUT}")
    return store.output(model)


_RUN = "SELECT 1 FROM runs WHERE run_uuid = ?"
_MODEL = """
    SELECT 1 FROM registered_models WHERE name = ?
    UNION SELECT 1 FROM logged_models WHERE model_id = ?
"""
_NEWEST = """
    SELECT run_uuid FROM runs JOIN tags USING (run_uuid) WHERE status = 'FINISHED'
    AND lifecycle_stage = 'active' AND key = 'quala.kind' AND value = 'workflow'
    ORDER BY start_time DESC LIMIT 3
"""


def check_known(tracking_uri: str | None, name: str) -> None:
    """Raise QualaError where a local store has no such run or model; importing MLflow takes long.

    Other stores are not asked.
    """
    from quala.workflow.database import SQLITE
    from quala.workflow.tracking import existing_store

    uri = existing_store(tracking_uri)
    if not uri.startswith(SQLITE):
        return
    file = f"file:{quote(os.path.abspath(uri.removeprefix(SQLITE)))}?mode=ro"
    model, _, alias = name.removeprefix("models:/").partition("@")
    try:
        with closing(sqlite3.connect(file, uri=True)) as store:
            if name.startswith("models:/"):
                # Without an alias it has a version, `models:/NAME/1`, or is a logged model.
                model = model if alias else model.rpartition("/")[0] or model
                found = store.execute(_MODEL, (model, model)).fetchone()
                hint = f"No model is registered as `{model}` in {uri}."
            else:
                found = store.execute(_RUN, (name,)).fetchone()
                newest = ", ".join(one for (one,) in store.execute(_NEWEST)) or "none"
                hint = f"There is no run `{name}` in {uri}. Newest finished workflows: {newest}."
    except sqlite3.DatabaseError:  # locked, or no store: MLflow says which
        return
    if found is None:
        raise QualaError(hint)
