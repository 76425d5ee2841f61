"""One run of a workflow: each stage is taken from the store, or computed and recorded."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quala.durable import disk_trouble, read_whole, replacing, settle
from quala.errors import QualaError, noted
from quala.manifest import damage, write_manifest
from quala.redact import recorded
from quala.results import REPORT
from quala.stage import StageContext
from quala.workflow.flow import Artifact, Flow, Node
from quala.workflow.identity import ORIGIN, leaves
from quala.workflow.lease import Claim, Lease, acquire
from quala.workflow.plan import IDENTITY, Entry, Plan, Status, make_plan
from quala.workflow.provenance import Record, code_state
from quala.workflow.registry import MODEL, log_model
from quala.workflow.script import WorkflowSpec
from quala.workflow.server import SERVER, site_of
from quala.workflow.settings import Settings
from quala.workflow.sources import NO_DATA, Source, Sources
from quala.workflow.store import Store
from quala.workflow.summary import dataset, parameters, show_report, titled
from quala.workflow.tracking import (
    DAMAGED,
    FINAL,
    FINGERPRINT,
    KIND,
    NODE,
    PARENT,
    STAGE,
    WORKFLOW,
)
from quala.workflow.views import address, pages_of

if TYPE_CHECKING:
    from mlflow.entities import Run


log = logging.getLogger(__name__)


DONE = "done.json"
"""Beside the output of a stage that the store does not have yet: its seal and its metrics."""


@dataclass(frozen=True)
class Outcome:
    """The result of one stage."""

    name: str
    status: str
    seconds: float
    run_id: str | None = None
    folder: Path | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "stage": self.name,
            "status": self.status,
            "seconds": round(self.seconds, 2),
            "run_id": self.run_id,
            "output": str(self.folder) if self.folder else None,
            "metrics": dict(self.metrics),
        }


@dataclass
class Executor:
    """Driver of the second call of a script: fetches or computes the output of each stage."""

    plan: Plan
    store: Store
    record: Record
    parent: str
    bars: bool
    reused: bool = False
    """Whether the workflow's run was finished before: nothing is recorded on it then."""
    told: dict[str, float] = field(default_factory=dict)
    """The final metrics of all stages. They are recorded at the end, behind those of the report:
    MLflow's interface compares runs by the first metric that they have."""
    outcomes: list[Outcome] = field(default_factory=list)

    def step(self, node: Node) -> Artifact:
        """Return the output of `node`; compute it unless it is stored."""
        entry = self.plan.entries.get(node.name)
        if entry is None or entry.node is None or entry.node.fingerprint != node.fingerprint:
            raise QualaError(
                f"Stage `{node.name}` is not what was planned: a workflow must call the same "
                "stages each time it is called."
            )
        if entry.status is Status.SKIPPED:
            self.outcomes.append(Outcome(node.name, entry.status, 0.0))
            absent = f"was left out ({entry.reason})"
            return Artifact(node.name, node.fingerprint, absent=absent)
        if node.given is not None:
            for note in node.foreign():
                if note not in self.plan.notes:
                    log.warning(note)
            self.outcomes.append(Outcome(node.name, entry.status, 0.0, folder=node.given))
            return Artifact(node.name, node.fingerprint, node.given)
        return self._obtain(node, entry)

    def _obtain(self, node: Node, entry: Entry) -> Artifact:
        start = time.monotonic()
        found = acquire(self.store, self._claim(node, entry), self._usable)
        if isinstance(found, Lease):
            verb = "Resuming" if found.resumed else "Running"
            log.info("%s `%s`: %s", verb, node.name, node.stage.summary)
            with found:
                self._compute(node, found)
            status, run_id = ("resumed" if found.resumed else "done"), found.run_id
        else:
            status, run_id = "cached", found.info.run_id
        run = self.store.client.get_run(run_id)
        folder, broken = self.store.fetch(run)
        if broken is not None:
            raise QualaError(f"`{broken}` of run {run_id} cannot be read back from the store.")
        metrics = {key: run.data.metrics[key] for key in json.loads(run.data.tags[FINAL])}
        seconds = time.monotonic() - start
        outcome = Outcome(node.name, status, seconds, run_id, folder, metrics)
        self.outcomes.append(outcome)
        if not self.reused:
            self._note_on_parent(node, outcome)
        return Artifact(node.name, node.fingerprint, folder, run_id, metrics)

    def _claim(self, node: Node, entry: Entry) -> Claim:
        ignored: set[str] = set()
        if entry.forced:
            # Stages that this workflow run computed before it was killed still count.
            runs = map(self.store.client.get_run, entry.finished)
            ignored = {run.info.run_id for run in runs if run.data.tags.get(PARENT) != self.parent}
        tags = {STAGE: node.stage.name, NODE: node.name, **self.record.tags}
        return Claim("stage", node.name, node.fingerprint, tags, self.parent, ignored)

    def _usable(self, run: Run) -> bool:
        if DAMAGED in run.data.tags:
            return False
        folder, broken = self.store.fetch(run)
        if broken is None:
            return True
        name = run.data.tags.get(NODE, run.info.run_name)
        log.warning(
            "`%s` of stage `%s` is damaged (run %s, %s): the stage is computed again.",
            broken,
            name,
            run.info.run_id,
            folder,
        )
        self.store.tag(run.info.run_id, {DAMAGED: broken})
        return False

    def _compute(self, node: Node, lease: Lease) -> None:
        work = self.store.work / node.fingerprint[:16]
        output, scratch = work / "output", work / "scratch"
        if not lease.resumed:
            shutil.rmtree(work, ignore_errors=True)
        metrics = _left(work)
        if metrics is None:
            shutil.rmtree(output, ignore_errors=True)
            output.mkdir(parents=True)
        scratch.mkdir(exist_ok=True)
        # MLflow refuses to change a param, and a resumed run has them already.
        known = self.store.client.get_run(lease.run_id).data.params
        params = {key: one for key, one in leaves(node.identity["config"]) if key not in known}
        self.store.record(lease.run_id, {}, params)
        identity = {IDENTITY: json.dumps(recorded(node.identity), indent=1)}
        self.store.attach(lease.run_id, identity | self.record.texts())
        if metrics is None:
            inputs = {
                key: item.path if isinstance(item, Artifact) else item.value
                for key, item in node.inputs.items()
            }
            context = self._context(node, lease, work)
            metrics = node.stage.function()(node.config, context, inputs) or {}
            if origin := node.origin():
                text = json.dumps(recorded(origin), indent=1)
                (output / ORIGIN).write_text(f"{text}\n", encoding="utf-8")
            _leave(work, metrics)
        self.store.publish(lease.run_id, output)
        self.store.record(lease.run_id, metrics)
        self.store.tag(lease.run_id, {FINAL: json.dumps(sorted(metrics))})
        self.store.finish(lease.run_id)
        shutil.rmtree(work, ignore_errors=True)

    def _context(self, node: Node, lease: Lease, work: Path) -> StageContext:
        return StageContext(
            name=node.name,
            output=work / "output",
            scratch=work / "scratch",
            run_id=lease.run_id,
            tracking_uri=self.store.uri,
            experiment=self.store.experiment,
            bars=self.bars,
            recorder=self.store,
            provenance=self.record.summary(self.plan.workflow, self.parent),
        )

    def _note_on_parent(self, node: Node, outcome: Outcome) -> None:
        headline = {
            key: value for key, value in outcome.metrics.items() if key in node.stage.headline
        }
        # A slash would make a section of charts for each stage, before that of the front.
        named = {f"{node.name}.{key}".replace("/", "."): value
                 for key, value in outcome.metrics.items()}  # fmt: skip
        self.told |= {**named, **headline}
        self.store.tag(self.parent, {f"{STAGE}.{node.name}": outcome.run_id or ""})
        folder, run_id = outcome.folder, outcome.run_id
        if folder is None or run_id is None:
            return
        with pages_of(f"`{node.name}`"):
            if (folder / REPORT).is_file():
                show_report(self.store, self.parent, folder)
            if (folder / MODEL).is_file():
                log_model(self.store, self.parent, run_id, folder)


def _leave(work: Path, metrics: Mapping[str, float]) -> None:
    """Keep what a stage returned beside its output, until the store has both."""
    output = work / "output"
    done = {
        "seal": write_manifest(output),
        "metrics": {key: float(value) for key, value in metrics.items()},
    }
    settle(output)
    with replacing(work / DONE) as partial:
        partial.write_text(json.dumps(done), encoding="utf-8")


def _left(work: Path) -> dict[str, float] | None:
    """Return the metrics of a finished output that the store did not get; None without one."""
    done = read_whole(work / DONE)
    if done is None or damage(work / "output", done["seal"]) is not None:
        return None
    metrics: dict[str, float] = done["metrics"]
    return metrics


@contextmanager
def _once(logger: logging.Logger) -> Iterator[None]:
    """Let each message of a logger pass once: every stage opens the data anew."""
    passed: set[str] = set()

    def first(record: logging.LogRecord) -> bool:
        new = record.getMessage() not in passed
        passed.add(record.getMessage())
        return new

    logger.addFilter(first)
    try:
        yield
    finally:
        logger.removeFilter(first)


@dataclass(frozen=True)
class Result:
    """A finished run of a workflow."""

    workflow: str
    run_id: str
    reused: bool
    seconds: float
    outcomes: Sequence[Outcome]
    store: Store

    @property
    def page(self) -> str | None:
        """The page of the run at a tracking server, None for other stores."""
        store = self.store
        served = store.uri.startswith(SERVER)
        site = site_of(store.uri)
        return address(site, store.experiment_id, run=self.run_id) if served else None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "workflow": self.workflow,
            "run_id": self.run_id,
            "reused": self.reused,
            "seconds": round(self.seconds, 2),
            "tracking_uri": self.store.uri,
            "experiment": self.store.experiment,
            **({"page": self.page} if self.page else {}),
            "stages": [outcome.to_json() for outcome in self.outcomes],
        }


@dataclass(frozen=True)
class Invocation:
    """One command: the resolved settings, and the overrides as they were typed."""

    settings: Settings
    config: str
    overrides: Sequence[str]
    notes: Sequence[str] = ()
    """What is to be said of the overrides."""
    sweep: str | None = None
    """Id of the sweep's run, for a job of a sweep."""
    varied: Sequence[str] = ()
    """Those of the overrides in which jobs of the sweep differ."""
    bars: bool = False


def run_workflow(workflow: WorkflowSpec, invocation: Invocation) -> Result:
    """Run a workflow, or return its finished run. Raises what a stage raises."""
    start = time.monotonic()
    settings = invocation.settings
    store = Store.open(settings.tracking)
    sources = Sources(store)
    plan = make_plan(workflow, settings, store, sources, invocation.notes)
    for note in plan.notes:
        log.warning(note)
    if not plan.settled:
        _check_given(plan)
    record = Record(
        config=invocation.config,
        overrides=invocation.overrides,
        seed=settings.seed,
        data=sources.data_used,
        code=code_state(workflow.script),
        diff=settings.tracking.diff,
    )
    found = acquire(store, _claim(plan, store, record, invocation), lambda run: True)
    reused = not isinstance(found, Lease)
    run_id = found.run_id if isinstance(found, Lease) else found.info.run_id
    executor = Executor(plan, store, record, run_id, invocation.bars, reused)
    flow = Flow(settings, workflow.stages, sources, executor)
    with _accounted(executor), _once(logging.getLogger("quala.data.taskdata")):
        if isinstance(found, Lease):
            if found.resumed:
                log.info("Going on with the interrupted workflow run %s.", run_id)
            with found, _watched(store, run_id, settings):
                store.attach(run_id, record.texts())
                _describe(store, run_id, plan, invocation, sources)
                workflow(flow)
                store.tell(run_id, executor.told)
                store.finish(run_id)
        else:
            log.info("Nothing is left to do: workflow run %s is finished.", run_id)
            workflow(flow)
    seconds = time.monotonic() - start
    return Result(workflow.name, run_id, reused, seconds, executor.outcomes, store)


def _describe(
    store: Store, run_id: str, plan: Plan, invocation: Invocation, sources: Sources
) -> None:
    """Record the options and the data of a workflow's run, once."""
    settings, known = invocation.settings, store.client.get_run(run_id)
    taking_part = {entry.node.stage.name for entry in plan.entries.values() if entry.node}
    words = invocation.overrides
    store.client.update_run(run_id, name=titled(plan.workflow, invocation.varied or words))
    params = parameters(settings, sorted(taking_part), words)
    new = {key: one for key, one in params.items() if key not in known.data.params}
    store.record(run_id, {}, new)
    inputs = known.inputs.dataset_inputs if known.inputs else []
    if sources.data_used != NO_DATA and not inputs:
        store.client.log_inputs(run_id, [dataset(settings.data, sources.data_used)])


@contextmanager
def _watched(store: Store, run_id: str, settings: Settings) -> Iterator[None]:
    """Record the load of the machine while a workflow runs, if that is wanted."""
    if not settings.tracking.system_metrics:
        yield
        return
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger(SystemMetricsMonitor.__module__).setLevel(logging.WARNING)
    monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=store.uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


@contextmanager
def _accounted(executor: Executor) -> Iterator[None]:
    """Keep what is finished with an error, and raise QualaError where a disk is behind it."""
    try:
        yield
    except BaseException as error:
        stages = [outcome.to_json() for outcome in executor.outcomes]
        noted(error, run_id=executor.parent, stages=stages)
        if isinstance(error, QualaError) or not isinstance(error, Exception):
            raise
        trouble = disk_trouble(error, executor.store.places)
        if trouble is None:
            raise
        raise QualaError(f"{trouble} With that mended, the same command goes on.") from error


def _check_given(plan: Plan) -> None:
    """Raise QualaError for given outputs that no stage could use, before others are computed."""
    for entry in plan.entries.values():
        node = entry.node
        if entry.status is Status.GIVEN and node is not None and node.given is not None:
            inputs = {
                key: item.value for key, item in node.inputs.items() if isinstance(item, Source)
            }
            node.stage.check_given(node.given, inputs)


def _claim(plan: Plan, store: Store, record: Record, invocation: Invocation) -> Claim:
    tags = {KIND: "workflow", FINGERPRINT: plan.fingerprint}
    # If something is left to run, finished runs of the same plan do not count, except for one
    # that another process finishes from now on.
    done = set() if plan.settled else {run.info.run_id for run in store.find(tags, "FINISHED")}
    return Claim(
        kind="workflow",
        name=plan.workflow,
        fingerprint=plan.fingerprint,
        tags={WORKFLOW: plan.workflow, "mlflow.source.name": plan.workflow, **record.tags},
        parent=invocation.sweep,
        ignored=done,
    )
