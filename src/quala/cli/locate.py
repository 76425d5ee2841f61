"""Finds the folder of the MODEL that a command names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from quala.cli.arguments import PLACE
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
        help="an export folder, a run id, models:/NAME@ALIAS, or a model that comes with quala",
    )
    parser.add_argument(
        "--tracking-uri",
        type=PLACE,
        metavar="URI",
        help="the store of runs and models (default: sqlite:///<this folder>/mlruns/mlflow.db)",
    )


def locate_model(model: str, tracking_uri: str | None) -> Path:
    """Return the folder of an export or checkpoint; tracked ones are fetched from the store.

    A folder wins over a model of its name that comes with quala, with a warning.
    Raises QualaError when there is no such folder, run or model.
    """
    from quala.runtime.card import model_folder, shipped

    if (folder := model_folder(model, warn)) is not None:
        return folder
    run = RUN_ID.fullmatch(model)
    if not run and not model.startswith("models:/"):
        raise QualaError(
            f"`{model}` is no folder, run id or models:/NAME@ALIAS that exists; models that come "
            f"with quala: {', '.join(shipped()) or 'none'}."
        )
    from quala.workflow.store import OUTPUT, Tracking

    store = Tracking.connect(tracking_uri)
    if run:
        return store.download(f"runs:/{store.stage_run(run[2], EXPORT_STAGE)}/{OUTPUT}")
    return store.download(model)
