"""One run of a workflow: plan it, take its tracked run, do it, sum it up."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quala.config import Settings
from quala.workflow.execute import Executor, Outcome
from quala.workflow.flow import Flow
from quala.workflow.lease import Claim, Lease, acquire
from quala.workflow.plan import Plan, make_plan
from quala.workflow.record import Record
from quala.workflow.sources import OutsideSources
from quala.workflow.store import FINGERPRINT, KIND, Store

if TYPE_CHECKING:
    from quala.workflow.script import Workflow

log = logging.getLogger(__name__)

WORKFLOW = "quala.workflow"


@dataclass(frozen=True)
class Result:
    """A workflow that went through."""

    workflow: str
    run_id: str
    reused: bool
    seconds: float
    outcomes: Sequence[Outcome]
    store: Store

    def to_json(self) -> dict[str, Any]:
        """Return the fields that a program may want."""
        return {
            "workflow": self.workflow,
            "run_id": self.run_id,
            "reused": self.reused,
            "seconds": round(self.seconds, 2),
            "tracking_uri": self.store.uri,
            "experiment": self.store.experiment,
            "stages": [outcome.to_json() for outcome in self.outcomes],
        }


@dataclass(frozen=True)
class Invocation:
    """What a person asked for: the resolved settings, and the words they said it in."""

    settings: Settings
    config: str
    overrides: Sequence[str]
    sweep: str | None = None
    """The run of the sweep that this is a job of."""
    bars: bool = False


def run_workflow(workflow: Workflow, invocation: Invocation) -> Result:
    """Run a workflow to its end, or find that it was; raise what a stage raises."""
    start = time.monotonic()
    settings = invocation.settings
    store = Store.open(settings.tracking)
    sources = OutsideSources(store)
    plan = make_plan(workflow, settings, store, sources)
    record = Record.of(
        workflow.script,
        config=invocation.config,
        overrides=invocation.overrides,
        seed=settings.seed,
        data=sources.data_used,
    )
    found = acquire(store, _claim(plan, store, record, invocation), lambda run: True)
    reused = not isinstance(found, Lease)
    run_id = found.run_id if isinstance(found, Lease) else found.info.run_id
    executor = Executor(plan, store, record, run_id, invocation.bars)
    flow = Flow(settings, workflow.stages, sources, executor)
    if isinstance(found, Lease):
        if found.resumed:
            log.info("Going on with the interrupted workflow run %s.", run_id)
        with found:
            store.attach(run_id, record.texts())
            workflow(flow)
            store.finish(run_id)
    else:
        log.info("Nothing is left to do: workflow run %s is finished.", run_id)
        workflow(flow)
    seconds = time.monotonic() - start
    return Result(workflow.name, run_id, reused, seconds, executor.outcomes, store)


def _claim(plan: Plan, store: Store, record: Record, invocation: Invocation) -> Claim:
    tags = {KIND: "workflow", FINGERPRINT: plan.fingerprint}
    # A finished run of the same plan stands only if there is nothing left to run; one that
    # another process finishes from now on counts in any case.
    done = set() if plan.settled else {run.info.run_id for run in store.find(tags, "FINISHED")}
    return Claim(
        kind="workflow",
        name=plan.workflow,
        fingerprint=plan.fingerprint,
        tags={WORKFLOW: plan.workflow, "mlflow.source.name": plan.workflow, **record.tags},
        parent=invocation.sweep,
        ignored=done,
    )


def bars_wanted(settings: Settings, interactive: bool) -> bool:
    """Say whether progress bars are shown: asked for, on a terminal, outside of a CI."""
    return settings.progress and interactive and "CI" not in os.environ
