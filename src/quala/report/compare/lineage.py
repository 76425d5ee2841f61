"""The stages behind a workflow run, as the tracking store has them: configs, inputs, costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quala.errors import QualaError
from quala.workflow.lease import attempt
from quala.workflow.plan import IDENTITY
from quala.workflow.store import STAGE

if TYPE_CHECKING:
    from mlflow.entities import Run

    from quala.report.store import Reports

HARDWARE = "provenance/hardware.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one stage cost; `steps` is 0 for a stage that trains nothing.

    `passes` counts forward and backward passes of a batch, `inputs` the inputs in them. `seconds`
    is a lower bound where `partial`: a resumed training of an older version knows its last
    process only. They were spent on `machine`.
    """

    stage: str
    steps: int
    passes: int
    inputs: int
    seconds: float
    partial: bool
    machine: str


@dataclass(frozen=True)
class Node:
    """One finished stage run."""

    name: str
    run: Run
    identity: Mapping[str, Any]
    hardware: Mapping[str, Any]

    @property
    def config(self) -> Mapping[str, Any]:
        """The options that count."""
        config: Mapping[str, Any] = self.identity["config"]
        return config

    @property
    def processor(self) -> str:
        """The processor and its cores."""
        return f"{self.hardware['cpu']}, {self.hardware['cores']} cores"

    def work(self) -> Work:
        """Return what the stage cost."""
        metrics = self.run.data.metrics
        if "train/steps" not in metrics:
            return self._other()
        steps = int(metrics["train/steps"])
        counted = "train/passes" in metrics
        # Before passes were counted, every training but the sandwich had one in a step.
        each = 2 + int(self.config["num_sandwich"]) if "num_sandwich" in self.config else 1
        passes = int(metrics["train/passes"]) if counted else steps * each
        return Work(
            stage=self.name,
            steps=steps,
            passes=passes,
            inputs=passes * int(self.config["batch_size"]),
            # The teacher's words, stored before the training, are part of its price.
            seconds=metrics["train/seconds"] + metrics.get("cache/seconds", 0.0),
            partial=not counted and attempt(self.run) > 0,
            machine=self._trainer(),
        )

    def _other(self) -> Work:
        info = self.run.info
        seconds = (info.end_time - info.start_time) / 1000
        # The time between a kill and its resumption is part of a run's, though nobody worked.
        return Work(
            stage=self.name,
            steps=0,
            passes=0,
            inputs=0,
            seconds=0.0 if attempt(self.run) else seconds,
            partial=attempt(self.run) > 0,
            machine=self._trainer(),
        )

    def _trainer(self) -> str:
        """Return where a training ran: the accelerator, or the processor with its threads."""
        if self.hardware.get("gpu"):
            return str(self.hardware["gpu"])
        threads = self.hardware.get("torch_threads")
        return f"{self.processor}, {threads} threads" if threads else self.processor


@dataclass
class Lineage:
    """The stage runs that a workflow run used, read when they are asked for.

    `known` is shared by the runs of a comparison: workflows have stages in common.
    """

    reports: Reports
    run: Run
    known: dict[str, Node] = field(default_factory=dict)
    """Stage runs by id."""

    def node(self, name: str) -> Node | None:
        """Return the stage run called `name`, None for an output given from outside."""
        run_id = self.run.data.tags.get(f"{STAGE}.{name}")
        if not run_id:
            return None
        if run_id not in self.known:
            run = self.reports.client.get_run(run_id)
            identity = self.reports.facts(run_id, IDENTITY)
            self.known[run_id] = Node(name, run, identity, self.reports.facts(run_id, HARDWARE))
        return self.known[run_id]

    def needed(self, name: str) -> Node:
        """Return the stage run called `name`. Raises QualaError when it came from outside."""
        node = self.node(name)
        if node is None:
            raise QualaError(
                f"Run `{self.run.info.run_id}` was given its `{name}` from outside: how its model "
                "was made is not tracked."
            )
        return node

    def upstream(self, starts: Iterable[str]) -> dict[str, Node | None]:
        """Return the stages that `starts` hang on and themselves, first things first.

        A stage given from outside is None.
        """
        found: dict[str, Node | None] = {}
        for name in starts:
            if name in found:
                continue
            node = self.node(name)
            if node is not None:
                before = self.upstream(stages_before(node))
                found.update({key: item for key, item in before.items() if key not in found})
            found[name] = node
        return found


def stages_before(node: Node) -> list[str]:
    """Return the names of the stages whose outputs a stage took."""
    return [one["from"] for one in node.identity["origins"].values() if "detail" not in one]
