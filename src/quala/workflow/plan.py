"""The plan of a workflow: which stages are cached, which will run, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from quala.errors import QualaError, unknown
from quala.redact import recorded
from quala.stage import imported
from quala.stored import read_object
from quala.workflow.flow import Artifact, Flow, Node
from quala.workflow.identity import differences, fingerprint
from quala.workflow.lease import busy
from quala.workflow.script import WorkflowSpec
from quala.workflow.settings import FlowConfig, Settings, named
from quala.workflow.sources import Source, Sources, UnreadSources
from quala.workflow.store import Store
from quala.workflow.tracking import DAMAGED, FINGERPRINT, KIND, NODE, STAGE

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class Selection:
    """Names of the stages that are needed, and of those that run although they are finished."""

    chosen: frozenset[str]
    forced: frozenset[str]
    reason: str
    """Why the other stages are left out."""


def select(nodes: Mapping[str, Node], flow: FlowConfig) -> Selection:
    """Resolve `flow.only`, `until`, `since` and `force` against the stages of a workflow."""
    for name in (flow.only, flow.until, flow.since, *flow.force):
        if name is not None and name not in nodes:
            raise unknown("stage", name, nodes)
    if flow.only and (flow.until or flow.since):
        raise QualaError("`flow.only` cannot be combined with `flow.until` or `flow.since`.")
    forced = {name for name, node in nodes.items() if node.config.force} | set(flow.force)
    for name in sorted(forced):
        if nodes[name].config.given is not None:
            raise QualaError(f"The stage `{name}` is given and forced: leave one of both out.")
    if flow.only:
        chosen = {flow.only} | nodes[flow.only].upstream
        forced &= {flow.only}
        return Selection(frozenset(chosen), frozenset(forced), f"flow.only={flow.only}")
    taken = {name for node in nodes.values() for name in node.upstream}
    chosen = _upstream(nodes, set(nodes) - taken)
    if flow.until:
        chosen = _upstream(nodes, {flow.until})
    if flow.since:
        anew = _downstream(nodes, flow.since) & chosen
        if not anew:
            raise QualaError(
                f"`flow.until={flow.until}` does not depend on `flow.since={flow.since}`."
            )
        forced |= anew
        chosen = _upstream(nodes, anew)
    asked = {"until": flow.until, "since": flow.since}
    reason = " ".join(f"flow.{key}={name}" for key, name in asked.items() if name)
    reason = reason or "nothing needs it"
    return Selection(frozenset(chosen), frozenset(forced & chosen), reason)


def _upstream(nodes: Mapping[str, Node], names: set[str]) -> set[str]:
    found = set(names)
    for name in reversed(list(nodes)):
        if name in found:
            # A given output needs no inputs.
            found |= nodes[name].upstream if nodes[name].config.given is None else set()
    return found


def _downstream(nodes: Mapping[str, Node], start: str) -> set[str]:
    found = {start}
    for name, node in nodes.items():
        if node.upstream & found:
            found.add(name)
    return found


IDENTITY = "identity.json"


class Status(StrEnum):
    """What will happen to a stage."""

    CACHED = "cached"
    GIVEN = "given"
    TO_RUN = "to run"
    STALE = "stale"
    RESUME = "resume"
    RUNNING = "running"
    DAMAGED = "damaged"
    SKIPPED = "left out"
    DISABLED = "disabled"


SETTLED = {Status.CACHED, Status.GIVEN, Status.SKIPPED, Status.DISABLED}


@dataclass(frozen=True)
class Entry:
    """One line of a plan."""

    name: str
    status: Status
    reason: str
    node: Node | None = None
    run_id: str | None = None
    forced: bool = False
    finished: frozenset[str] = frozenset()
    """Runs of this fingerprint that are finished now."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "stage": self.name,
            "status": self.status.value,
            "reason": self.reason,
            "run_id": self.run_id,
            "fingerprint": self.node.fingerprint if self.node else None,
        }


@dataclass(frozen=True)
class Plan:
    """All stages in order, and the fingerprint of the workflow as a whole."""

    workflow: str
    entries: Mapping[str, Entry]
    fingerprint: str
    notes: Sequence[str] = ()
    """What the user may not expect, a sentence each."""

    @property
    def settled(self) -> bool:
        """Whether nothing is left to run."""
        return all(entry.status in SETTLED for entry in self.entries.values())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        stages = [entry.to_json() for entry in self.entries.values()]
        told = {"notes": list(self.notes)} if self.notes else {}
        return {
            "workflow": self.workflow,
            "fingerprint": self.fingerprint,
            "stages": stages,
            **told,
        }


@dataclass
class _Collector:
    """Driver that collects the nodes of a script; their outputs do not exist yet."""

    nodes: dict[str, Node] = field(default_factory=dict)

    def step(self, node: Node) -> Artifact:
        self.nodes[node.name] = node
        return Artifact(node.name, node.fingerprint)


def check_plan(workflow: WorkflowSpec, settings: Settings) -> None:
    """Raise QualaError for what is wrong whatever the store holds, which need not be open yet."""
    _called(workflow, settings, UnreadSources())


def make_plan(
    workflow: WorkflowSpec,
    settings: Settings,
    store: Store,
    sources: Sources,
    notes: Sequence[str] = (),
) -> Plan:
    """Call the script symbolically and look up every stage; run nothing.

    `notes` on the overrides come first among those of the plan.
    """
    flow, nodes, selection = _called(workflow, settings, sources)
    entries: dict[str, Entry] = {}
    for name in flow.names:
        node = nodes.get(name)
        if node is None:
            entries[name] = Entry(name, Status.DISABLED, "switched off by `enabled=false`")
        else:
            entries[name] = _entry(node, selection, store, entries)
    _check_only(settings.flow, entries)
    found = [note for entry in entries.values() for note in _notes(entry, entries, store)]
    mark = _fingerprint(workflow, settings, entries)
    return Plan(workflow.name, entries, mark, [*notes, *found])


def _called(
    workflow: WorkflowSpec, settings: Settings, sources: Sources
) -> tuple[Flow, dict[str, Node], Selection]:
    """Call the script symbolically, check what it asks for, and find what is needed."""
    collector = _Collector()
    flow = Flow(settings, workflow.stages, sources, collector)
    workflow(flow)
    if settings.model.get("student") and "student" not in flow.starts:
        raise QualaError(
            f"`model.student`: `{workflow.name}` makes its student of its teacher, so it takes no "
            f"other, got {settings.model['student']}."
        )
    nodes = collector.nodes
    for node in nodes.values():
        if node.recipe is not None and node.config.given is None:
            node.recipe.check(workflow.name, node.config)
    selection = select(nodes, settings.flow)
    known: dict[str, Node] = {}
    for node in nodes.values():
        inputs = {key: known.get(item.name, item) for key, item in node.inputs.items()}
        known[node.name] = replace(node, inputs=inputs)  # type: ignore[arg-type]
        if node.name not in selection.chosen:
            continue
        data = node.inputs.get("data")
        if node.config.given is None:
            with named(node.config, f"stage.{node.stage.name}", always=False):
                node.config.check_inputs(inputs)
        elif node.given is not None and node.stage.fits and isinstance(data, Source):
            try:
                imported(node.stage.fits)(node.given, data.value)
            except QualaError as error:
                raise QualaError(f"`stage.{node.stage.name}.given`: {error}") from error
    return flow, nodes, selection


def _notes(entry: Entry, entries: Mapping[str, Entry], store: Store) -> list[str]:
    """Return notes on a stage; raise QualaError where a given output cannot be of this run."""
    node = entry.node
    if node is None or entry.status is Status.SKIPPED:
        return []
    if node.given is None:
        return [
            note.replace("`", f"`stage.{node.stage.name}.", 1) for note in node.config.remarks()
        ]
    inputs, later = dict(node.inputs), list[str]()
    for key in node.stage.about:
        item = inputs.get(key)
        above = entries.get(item.name) if isinstance(item, Artifact) else None
        if not isinstance(item, Artifact) or above is None or above.node is None:
            continue
        if above.node.given is not None:
            inputs[key] = replace(item, folder=above.node.given)
        elif above.status is Status.CACHED and above.run_id:
            inputs[key] = replace(item, folder=store.fetch(store.client.get_run(above.run_id))[0])
        elif above.status is not Status.SKIPPED and node.stage.exact:
            later.append(
                f"`stage.{node.stage.name}.given` is refused once `{item.name}` has run, unless "
                f"its figures are of the very same `{key}`."
            )
    return [*replace(node, inputs=inputs).foreign(), *later]


def _fingerprint(workflow: WorkflowSpec, settings: Settings, entries: Mapping[str, Entry]) -> str:
    nodes = [[entry.name, entry.node.fingerprint] for entry in entries.values() if entry.node]
    chosen = settings.flow
    selection = [chosen.only, chosen.until, chosen.since, sorted(chosen.force)]
    forced = [entry.name for entry in entries.values() if entry.forced]
    return fingerprint([workflow.name, settings.seed, nodes, selection, forced])


def _entry(node: Node, selection: Selection, store: Store, before: Mapping[str, Entry]) -> Entry:
    if node.name not in selection.chosen:
        return Entry(node.name, Status.SKIPPED, selection.reason, node)
    if node.given is not None:
        return Entry(node.name, Status.GIVEN, str(node.config.given), node)
    same = store.find({KIND: "stage", FINGERPRINT: node.fingerprint})
    finished = [run for run in same if run.info.status == "FINISHED"]
    whole = [run for run in finished if DAMAGED not in run.data.tags]
    unfinished = [run for run in same if run.info.status != "FINISHED"]
    forced = node.name in selection.forced

    def entry(status: Status, reason: str, run: Run | None = None) -> Entry:
        run_id = run.info.run_id if run else None
        ids = frozenset(run.info.run_id for run in finished)
        return Entry(node.name, status, reason, node, run_id, forced, ids)

    if whole and not forced:
        shown = f"run {whole[0].info.run_id[:8]}"
        broken = store.fetch(whole[0])[1]
        if broken is None:
            return entry(Status.CACHED, shown, whole[0])
        return entry(Status.DAMAGED, f"`{broken}` of {shown} is damaged", whole[0])
    for run in unfinished:
        if busy(run):
            return entry(Status.RUNNING, "another process computes it now", run)
    if unfinished:
        shown = f"run {unfinished[0].info.run_id[:8]}"
        return entry(Status.RESUME, f"{shown} was interrupted", unfinished[0])
    if forced:
        return entry(Status.TO_RUN, "forced")
    if finished:
        return entry(Status.DAMAGED, "its output was found damaged", finished[0])
    return entry(*_why_new(node, store, before))


COMPARED = 8
"""The newest runs of a stage among which a plan looks for the most similar one."""


def _why_new(
    node: Node, store: Store, before: Mapping[str, Entry]
) -> tuple[Status, str, Run | None]:
    earlier = store.find({KIND: "stage", NODE: node.name, STAGE: node.stage.name}, "FINISHED")
    if not earlier:
        waits = [name for name in sorted(node.upstream) if before[name].status not in SETTLED]
        after = f", after {', '.join(waits)}" if waits else ""
        return Status.TO_RUN, f"never run{after}", None
    known = [(run, _identity(run, store)) for run in earlier[:COMPARED]]
    own = recorded(node.identity)
    found = [(differences(old, own), run) for run, old in known if old]
    nearest, run = min(found, key=lambda one: len(one[0]), default=([], earlier[0]))
    return Status.STALE, "; ".join(dict.fromkeys(nearest)) or "the last run differs", run


def _identity(run: Run, store: Store) -> dict[str, Any] | None:
    cached = store.work / "cache" / f"{run.info.run_id}-identity"
    try:
        path = store.download(f"runs:/{run.info.run_id}/{IDENTITY}", cached)
        return read_object(path)
    except QualaError:
        return None


def _check_only(chosen: FlowConfig, entries: Mapping[str, Entry]) -> None:
    if chosen.only is None:
        return
    node = entries[chosen.only].node
    lacking = [
        name
        for name in sorted(node.upstream if node else ())
        if entries[name].status not in (Status.CACHED, Status.GIVEN)
    ]
    if lacking:
        raise QualaError(
            f"`flow.only={chosen.only}` needs the output of {', '.join(lacking)}: run that first "
            f"or give it with `stage.{lacking[0]}.given=`."
        )
