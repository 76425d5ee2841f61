"""The workflows at toy size through the command line: words, a tracking folder, results."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from quala.cli.entry import main
from quala.workflow.compose import composed
from quala.workflow.script import find_workflow

STAGES = [
    "finetune", "distill", "length_adapt", "quantize", "search", "measure", "report", "export",
]  # fmt: skip
SIZES = [
    "data.search_size=12",
    "data.selection_size=8",
    *(
        f"stage.{stage}.{option}"
        for stage in STAGES[:4]
        for option in ("max_steps=2", "batch_size=8", "epochs=1", "precision=fp32")
    ),
    "stage.distill.layers=1",
    "stage.distill.relation_heads=2",
    "stage.quantize.calibration_batches=2",
    *(
        f"stage.search.{option}"
        for option in ("max_evaluations=6", "population=4", "chunk=6", "step=4")
    ),
    *(
        f"stage.measure.{option}"
        for option in ("latency_inputs=2", "warmup=1", "threads=1", "front_points=2")
    ),
]
QUESTIONS = ["data.max_train=24", "data.max_test=8"]


def options_of(workflow: str, words: Sequence[str]) -> list[str]:
    """Leave out options that a workflow refuses: of stages that it lacks, or that do not run."""
    spec = find_workflow(workflow)
    parts = {word: word.partition("=")[0].split(".") for word in words}
    own = [word for word in words if parts[word][0] != "stage" or parts[word][1] in spec.stages]
    swept = {word for word in own if re.search(r"^-|=[^\[{]*,", word)}
    stages = composed(spec, [word for word in own if word not in swept]).stage
    return [
        word
        for word in own
        if parts[word][0] != "stage"
        or parts[word][2] in ("enabled", "given")
        or (stages[parts[word][1]].enabled and stages[parts[word][1]].given is None)
    ]


@contextmanager
def quiet_logging() -> Iterator[None]:
    """Hydra sets the handlers of the root logger; put back what was there."""
    root, ours = logging.getLogger(), logging.getLogger("quala")
    handlers, level, own = root.handlers[:], root.level, ours.level
    try:
        yield
    finally:
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        ours.setLevel(own)


class Toy:
    """A tracking folder of its own, and the commands on it."""

    def __init__(
        self,
        folder: Path,
        checkpoint: Path,
        database: Path,
        sizes: list[str],
        workflow: str = "quala_minilm",
    ) -> None:
        self.workflow = workflow
        self.store = folder / "mlruns"
        self.store.mkdir()
        shutil.copy(database, self.store / "mlflow.db")
        own = options_of(workflow, [*SIZES, *sizes])
        self.words = [f"tracking.folder={self.store}", f"model.teacher={checkpoint}", *own]

    def __call__(self, verb: str, *overrides: str) -> Any:
        """Return what the command prints as JSON; it must leave with 0."""
        said = io.StringIO()
        with quiet_logging(), redirect_stdout(said):
            assert (
                main(
                    [
                        verb,
                        self.workflow,
                        *options_of(self.workflow, [*self.words, *overrides]),
                        "--json",
                    ]
                )
                == 0
            )
        return json.loads(said.getvalue())

    def statuses(self, verb: str, *overrides: str) -> dict[str, str]:
        stages = self(verb, *overrides)["stages"]
        return {stage["stage"]: stage["status"] for stage in stages}


def output(result: Any, stage: str) -> Path:
    return Path(next(one["output"] for one in result["stages"] if one["stage"] == stage))
