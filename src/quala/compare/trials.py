"""One measured row of one tracked run, with all that a comparison wants to know of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from quala.compare.settings import Setting
from quala.compare.store import REPORT_STAGE
from quala.errors import QualaError
from quala.results import FINE_TUNED, Report, Row
from quala.workflow.execute import WORKFLOW
from quala.workflow.identity import leaves
from quala.workflow.lease import attempt
from quala.workflow.plan import IDENTITY
from quala.workflow.store import STAGE

if TYPE_CHECKING:
    from mlflow.entities import Run

    from quala.compare.store import Reports


Kind = Literal["teacher", "full", "chosen"]
TEACHER = "fine-tuned"
"""What the comparison calls the system of the teachers' rows."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where latencies were measured: times of different places are not compared."""

    runtime: str
    threads: int
    processor: str

    def __str__(self) -> str:
        return f"{self.runtime}, {self.threads} threads, {self.processor}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What the stages cost that led to a model, and which of them nobody knows.

    `training` are stages with optimizer steps, `other` are calibrations and searches, `missing`
    the names of outputs that were given from outside.
    """

    training: tuple[Work, ...]
    other: tuple[Work, ...]
    missing: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return sum(work.steps for work in self.training)

    @property
    def passes(self) -> int:
        """Forward and backward passes of a batch."""
        return sum(work.passes for work in self.training)

    @property
    def inputs(self) -> int:
        """Inputs that were passed forward and backward."""
        return sum(work.inputs for work in self.training)

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        return sum(work.seconds for work in self.training)

    @property
    def other_seconds(self) -> float:
        """Seconds of calibrations and searches."""
        return sum(work.seconds for work in self.other)

    @property
    def partial(self) -> bool:
        """Whether the training took more than what is known of it."""
        return bool(self.missing) or any(work.partial for work in self.training)

    @property
    def other_partial(self) -> bool:
        """Whether calibrations and searches took more than what is known of them."""
        return any(work.partial for work in self.other)

    @property
    def machines(self) -> tuple[str, ...]:
        """Where the training ran."""
        return tuple(dict.fromkeys(work.machine for work in self.training))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A row of a run's report and where it comes from.

    `identity` is equal for two measurements of one model at lengths found by one search. `data`
    is the fingerprint of the data that `spec` names. `named` are the options of `setting` that
    somebody gave on the command line.
    """

    run: str
    system: str
    kind: Kind
    row: Row
    score: float
    identity: str
    data: str
    spec: Mapping[str, Any]
    setting: Setting
    named: frozenset[str]
    seeds: tuple[int, ...]
    place: Place
    teacher_ms: float | None
    """The teacher's median latency, timed side by side with the row."""
    costs: Costs
    teacher: Costs
    front: tuple[Row, ...]
    """Other lengths of the same model, with the row at full length."""
    commit: str
    started: datetime

    def share(self, row: Row) -> float | None:
        """Return the latency of one of the run's rows as a share of the teacher's."""
        if row.median_ms is None or self.teacher_ms is None:
            return None
        return row.median_ms / self.teacher_ms


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


SEED = "seed"
BASELINE, FLOAT, MODEL, SEARCH, DATA = "baseline", "supernet", "model", "search", "data"
"""Names of what the measure stage takes."""


@dataclass
class Collector:
    """Reads workflow runs; the stage runs that they share are read once."""

    reports: Reports
    _known: dict[str, Node] = field(default_factory=dict)

    def trials(self, run: Run) -> list[Trial]:
        """Return the rows that are compared: the teacher's, and the compressed model's.

        The latter at full and at chosen lengths, and the same of the float model that it was
        rounded from, where that is not the model itself.

        Raises QualaError for a run without a report, and for one whose model or measurement was
        given from outside.
        """
        report = self.reports.report(run)
        if report is None:
            raise QualaError(
                f"Run `{run.info.run_id}` ({run.info.status.lower()}) has no report to compare."
            )
        return list(_Reader(Lineage(self.reports, run, self._known), report).trials())


@dataclass
class _Reader:
    """Joins one run's report with the stages behind it."""

    lineage: Lineage
    report: Report

    def __post_init__(self) -> None:
        shown = self.lineage.needed(REPORT_STAGE)
        self.measure = self.lineage.needed(shown.identity["origins"]["measure"]["from"])
        self.origins: Mapping[str, Any] = self.measure.identity["origins"]
        self.inputs: Mapping[str, str] = self.measure.identity["inputs"]
        self.named = _named(self.lineage.run.data.tags["quala.overrides"])
        rows = self.report.rows
        self.teacher = next((row for row in rows if row.model == FINE_TUNED), None)

    def trials(self) -> Iterator[Trial]:
        """Yield a trial for each row that is compared."""
        report = self.report
        chosen, unrounded = report.chosen, report.supernet
        shorter = (row for row in unrounded if chosen and row.lengths == chosen.lengths)
        rows: list[tuple[Kind, tuple[str, ...], Row | None]] = [
            ("teacher", (BASELINE,), self.teacher),
            ("full", (FLOAT,), next(iter(unrounded), None)),
            ("chosen", (FLOAT, SEARCH), next(shorter, None)),
            ("full", (MODEL,), report.full),
            ("chosen", (MODEL, SEARCH), chosen),
        ]
        for kind, made_by, row in rows:
            if row is not None and row.score is not None:
                yield self._trial(kind, made_by, row, row.score)

    def _trial(self, kind: Kind, made_by: tuple[str, ...], row: Row, score: float) -> Trial:
        run, measure = self.lineage.run, self.measure
        nodes, teacher = self._upstream(made_by), self._upstream([BASELINE])
        above = {} if kind == "teacher" else teacher
        setting = self._setting(nodes, kind, row)
        config = measure.config
        fronts: dict[tuple[str, ...], tuple[Row, ...]] = {
            (FLOAT,): self.report.supernet[1:], (MODEL,): self.report.front,
        }  # fmt: skip
        return Trial(
            run=run.info.run_id,
            system=TEACHER if kind == "teacher" else run.data.tags[WORKFLOW],
            kind=kind,
            row=row,
            score=score,
            identity=" ".join(self.inputs[key] for key in made_by),
            data=self.inputs[DATA],
            spec=self.origins[DATA]["detail"],
            setting=setting,
            named=frozenset(_matching(setting, self.named, nodes)),
            seeds=_seeds(nodes),
            place=Place(
                str(config.get("runtime", "torch")), int(config["threads"]), measure.processor
            ),
            teacher_ms=self.teacher.median_ms if self.teacher else None,
            costs=_costs({name: node for name, node in nodes.items() if name not in above}),
            teacher=_costs(teacher),
            front=fronts.get(made_by, ()),
            commit=run.data.tags.get("mlflow.source.git.commit", ""),
            started=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        )

    def _upstream(self, inputs: Iterable[str]) -> dict[str, Node | None]:
        return self.lineage.upstream(
            self.origins[key]["from"] for key in inputs if key in self.origins
        )

    def _setting(self, nodes: Mapping[str, Node | None], kind: Kind, row: Row) -> dict[str, str]:
        """Return the options behind a row, without seeds and paths; given outputs by content."""
        setting: dict[str, str] = {}
        content = _contents([self.measure, *nodes.values()])
        for name, node in nodes.items():
            if node is None:
                setting[name] = f"given {content[name][:8]}"
            else:
                setting |= _options(name, node)
        setting["measure.runtime"] = str(self.measure.config.get("runtime", "torch"))
        if kind == "chosen":
            setting["measure.max_loss"] = str(self.measure.config["max_loss"])
            # Before it was an option, the loss was taken as it was seen.
            setting["measure.certainty"] = str(self.measure.config.get("certainty", 0.5))
            # The search's stages are those of the integer model, also for the float one's row.
            setting["precision"] = row.precision
        return setting


def _contents(nodes: Iterable[Node | None]) -> dict[str, str]:
    """Return the fingerprints of what the stages took, by the name of where it came from."""
    identities = [node.identity for node in nodes if node is not None]
    return {
        origin["from"]: one["inputs"][key]
        for one in identities
        for key, origin in one["origins"].items()
    }


def _options(name: str, node: Node) -> dict[str, str]:
    """Return a stage's options and its start model; the name alone says that the stage ran."""
    found = {name: "on", f"{name}.version": str(node.identity["version"])}
    for key, value in leaves(node.config):
        if key.rpartition(".")[2] != SEED and value is not None and value is not False:
            found[f"{name}.{key}"] = _text(value)
    for key, origin in node.identity["origins"].items():
        if "detail" in origin and key != DATA:
            content = node.identity["inputs"][key]
            own = "" if content.startswith("name:") else f" {content[:8]}"
            found[origin["from"]] = PurePath(origin["detail"]["value"]).name + own
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(_text, value))
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)


def _named(overrides: str) -> frozenset[str]:
    """Return the options that the words of a command line set, without the groups."""
    words = (word.lstrip("+~").partition("=")[0] for word in overrides.split())
    return frozenset(word.removeprefix("stage.") for word in words if "/" not in word)


def _matching(
    setting: Mapping[str, str], named: Collection[str], nodes: Mapping[str, Node | None]
) -> Iterator[str]:
    """Yield the options of a setting that were named; a stage's may have a name of its own."""
    for key in setting:
        name, _, option = key.partition(".")
        node = nodes.get(name)
        if node is None:
            word = key if option else f"{name}.given"
        else:
            word = f"{node.identity['stage']}.{option or 'enabled'}"
        if any(word == one or word.startswith(f"{one}.") for one in named):
            yield key


def _seeds(nodes: Mapping[str, Node | None]) -> tuple[int, ...]:
    found = {int(node.config[SEED]) for node in nodes.values() if node and SEED in node.config}
    return tuple(sorted(found))


def _costs(nodes: Mapping[str, Node | None]) -> Costs:
    works = [node.work() for node in nodes.values() if node is not None]
    return Costs(
        training=tuple(work for work in works if work.steps),
        other=tuple(work for work in works if not work.steps),
        missing=tuple(name for name, node in nodes.items() if node is None),
    )
