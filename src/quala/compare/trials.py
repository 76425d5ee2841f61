"""Trials: measured rows of tracked runs with their settings, seeds and training costs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from quala.compare.store import MEASURE_STAGE, REPORT_STAGE, Reports, report_run
from quala.data.formats import data_title
from quala.errors import QualaError
from quala.results import FINE_TUNED, Report, Row
from quala.workflow.identity import leaves
from quala.workflow.lease import attempt
from quala.workflow.plan import IDENTITY
from quala.workflow.tracking import STAGE, WORKFLOW

if TYPE_CHECKING:
    from mlflow.entities import Run


Setting = Mapping[str, str]
"""Options by dotted name, in the order of the stages; false and null options are absent."""
Kind = Literal["teacher", "full", "chosen"]
TEACHER = "fine-tuned"
"""The system of the teachers' rows in a comparison."""
ROW_FIGURES = ("exact_match", "parameters", "nonzero", "size_bytes", "macs_padded", "macs_mean")
COSTS = ("steps", "passes", "inputs", "seconds")


@dataclass(frozen=True, slots=True)
class Place:
    """Where latencies were measured; times of different places cannot be compared."""

    runtime: str
    threads: int
    processor: str

    def __str__(self) -> str:
        return f"{self.runtime}, {self.threads} threads, {self.processor}"


@dataclass(frozen=True, slots=True)
class Work:
    """What one stage cost; `steps` is 0 for a stage that trains nothing.

    `passes` counts forward and backward passes of a batch, `inputs` the inputs in them. `seconds`
    were spent on `machine`; they are a lower bound where `partial`, for a resumed training of an
    older version, which recorded its last process only.
    """

    stage: str
    steps: int = 0
    passes: int = 0
    inputs: int = 0
    seconds: float = 0.0
    partial: bool = False
    machine: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What the stages that led to a model cost.

    `training` are stages with optimizer steps, `other` are calibrations and searches, `missing`
    are names of outputs that were given from outside, whose costs are unknown.
    """

    training: tuple[Work, ...]
    other: tuple[Work, ...]
    missing: tuple[str, ...]

    def total(self, figure: str) -> float:
        """Return the sum of `steps`, `passes`, `inputs` or `seconds` over the training stages."""
        return sum((getattr(work, figure) for work in self.training), start=0.0)

    @property
    def partial(self) -> bool:
        """Whether the training took more than what is known of it."""
        return bool(self.missing) or any(work.partial for work in self.training)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A row of a run's report and where it comes from.

    `identity` is equal for two measurements of one model at lengths found by one search. `data`
    is the fingerprint of the data that `spec` names, `data_title` what they are called. `named`
    are the options of `setting` that were set on the command line.
    """

    run: str
    system: str
    kind: Kind
    row: Row
    identity: str
    data: str
    data_title: str
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

    def figures(self) -> dict[str, float | None]:
        """Return score, sizes and costs by name, as in compare.csv; unknown ones are None."""
        return {
            **{name: getattr(self.row, name) for name in ("score", *ROW_FIGURES)},
            **{f"train_{name}": self.costs.total(name) for name in COSTS},
            "other_seconds": sum(work.seconds for work in self.costs.other),
            **{f"teacher_{name}": self.teacher.total(name) for name in COSTS},
        }

    def partial(self, figure: str) -> bool:
        """Return whether what is known of a cost in `figures` is a lower bound."""
        if figure == "other_seconds":
            return any(work.partial for work in self.costs.other)
        return (self.teacher if figure.startswith("teacher_") else self.costs).partial

    def share(self, row: Row) -> float | None:
        """Return the latency of one of the run's rows as a share of the teacher's."""
        if row.median_ms is None or self.teacher_ms is None:
            return None
        return row.median_ms / self.teacher_ms


HARDWARE = "provenance/hardware.json"
SEED = "seed"
BASELINE, FLOAT, MODEL, SEARCH, DATA = "baseline", "supernet", "model", "search", "data"
"""Names of the inputs of the measure stage."""


@dataclass(frozen=True)
class Node:
    """One finished stage run. `identity` is what its fingerprint was computed from."""

    name: str
    run: Run
    identity: Mapping[str, Any]
    hardware: Mapping[str, Any]

    @property
    def config(self) -> Mapping[str, Any]:
        """The options that are part of the fingerprint."""
        config: Mapping[str, Any] = self.identity["config"]
        return config

    @property
    def processor(self) -> str:
        """The processor and its cores."""
        return f"{self.hardware['cpu']}, {self.hardware['cores']} cores"

    @property
    def machine(self) -> str:
        """Where a training ran: the accelerator, or the processor with its threads."""
        if self.hardware.get("gpu"):
            return str(self.hardware["gpu"])
        threads = self.hardware.get("torch_threads")
        return f"{self.processor}, {threads} threads" if threads else self.processor

    def work(self) -> Work:
        """Return what the stage cost."""
        metrics, info = self.run.data.metrics, self.run.info
        resumed = attempt(self.run) > 0
        if "train/steps" not in metrics:
            # The time between a kill and its resumption counts as the run's, so nothing is known.
            seconds = 0.0 if resumed else (info.end_time - info.start_time) / 1000
            return Work(self.name, seconds=seconds, partial=resumed, machine=self.machine)
        steps = int(metrics["train/steps"])
        # Older versions did not count passes: every training but the sandwich had one in a step.
        each = 2 + int(self.config["num_sandwich"]) if "num_sandwich" in self.config else 1
        passes = int(metrics.get("train/passes", steps * each))
        return Work(
            self.name,
            steps=steps,
            passes=passes,
            inputs=passes * int(self.config["batch_size"]),
            # Caching the teacher's outputs is part of the training.
            seconds=metrics["train/seconds"] + metrics.get("cache/seconds", 0.0),
            partial=resumed and "train/passes" not in metrics,
            machine=self.machine,
        )


@dataclass
class Collector:
    """Reads workflow runs; the stage runs that they share are read once."""

    reports: Reports
    _known: dict[str, Node] = field(default_factory=dict)
    """Stage runs by id."""

    def trials(self, run: Run) -> list[Trial]:
        """Return the rows that are compared: those of the teacher and of the compressed model.

        The compressed model has a row at full length and one at the chosen lengths. The float
        model that was quantized, where there is one, has the same two rows.

        Raises QualaError for a run without a report or measured rows, and for one whose model or
        measurement was given from outside.
        """
        report = None if report_run(run) else self.reports.measured(run)
        return list(_TrackedReport(self, run, report or self.reports.report(run)).trials())

    def node(self, run: Run, name: str) -> Node | None:
        """Return the stage run called `name`, None for an output given from outside."""
        run_id = run.data.tags.get(f"{STAGE}.{name}")
        if not run_id:
            return None
        if run_id not in self._known:
            facts = [self.reports.facts(run_id, path) for path in (IDENTITY, HARDWARE)]
            self._known[run_id] = Node(name, self.reports.get(run_id), *facts)
        return self._known[run_id]


@dataclass
class _TrackedReport:
    """The report of one workflow run, with the stage runs behind it."""

    collector: Collector
    run: Run
    report: Report

    def __post_init__(self) -> None:
        shown = self.collector.node(self.run, REPORT_STAGE)
        measured = shown.identity["origins"]["measure"]["from"] if shown else MEASURE_STAGE
        self.measure = self._needed(measured)
        self.origins: Mapping[str, Any] = self.measure.identity["origins"]
        self.inputs: Mapping[str, str] = self.measure.identity["inputs"]
        overrides = self.run.data.tags["quala.overrides"].split()
        words = (word.lstrip("+~").partition("=")[0] for word in overrides)
        # Words with a slash choose config groups; the others set options.
        self.named = {word.removeprefix("stage.") for word in words if "/" not in word}
        rows = self.report.rows
        self.teacher = next((row for row in rows if row.model == FINE_TUNED), None)

    def _needed(self, name: str) -> Node:
        node = self.collector.node(self.run, name)
        if node is None:
            raise QualaError(
                f"Run `{self.run.info.run_id}` was given its `{name}` from outside: how its model "
                "was made is not tracked."
            )
        return node

    def trials(self) -> Iterator[Trial]:
        """Yield a trial for each row that is compared."""
        report = self.report
        chosen, unrounded = report.chosen, report.supernet
        same = chosen and (chosen.lengths, chosen.layers)
        shorter = (row for row in unrounded if (row.lengths, row.layers) == same)
        rows: list[tuple[Kind, tuple[str, ...], Row | None, tuple[Row, ...]]] = [
            ("teacher", (BASELINE,), self.teacher, ()),
            ("full", (FLOAT,), next(iter(unrounded), None), unrounded[1:]),
            ("chosen", (FLOAT, SEARCH), next(shorter, None), ()),
            ("full", (MODEL,), report.full, report.front),
            ("chosen", (MODEL, SEARCH), chosen, ()),
        ]
        for kind, made_by, row, front in rows:
            if row is not None and row.score is not None:
                yield self._trial(kind, made_by, row, front)

    def _trial(
        self, kind: Kind, made_by: tuple[str, ...], row: Row, front: tuple[Row, ...]
    ) -> Trial:
        run, measure = self.run, self.measure
        nodes, teacher = self._upstream(made_by), self._upstream([BASELINE])
        above = {} if kind == "teacher" else teacher
        setting = self._setting(nodes, kind, row)
        seeds = {int(node.config[SEED]) for node in nodes.values() if node and SEED in node.config}
        config, spec = measure.config, self.origins[DATA]["detail"]
        return Trial(
            run=run.info.run_id,
            system=TEACHER if kind == "teacher" else run.data.tags[WORKFLOW],
            kind=kind,
            row=row,
            identity=" ".join(self.inputs[key] for key in made_by),
            data=self.inputs[DATA],
            data_title=self.report.data.get("title") or data_title(spec),
            spec=spec,
            setting=setting,
            named=frozenset(_matching(setting, self.named, nodes)),
            seeds=tuple(sorted(seeds)),
            place=Place(
                str(config.get("runtime", "torch")), int(config["threads"]), measure.processor
            ),
            teacher_ms=self.teacher.median_ms if self.teacher else None,
            costs=_costs({name: node for name, node in nodes.items() if name not in above}),
            teacher=_costs(teacher),
            front=front,
            commit=run.data.tags.get("mlflow.source.git.commit", ""),
            started=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        )

    def _upstream(self, inputs: Iterable[str]) -> dict[str, Node | None]:
        """Return the stages behind inputs of the measurement, in order; given ones are None."""
        found: dict[str, Node | None] = {}

        def add(names: Iterable[str]) -> None:
            for name in names:
                if name not in found:
                    node = self.collector.node(self.run, name)
                    origins = node.identity["origins"].values() if node else ()
                    add(one["from"] for one in origins if "detail" not in one)
                    found[name] = node

        add(self.origins[key]["from"] for key in inputs if key in self.origins)
        return found

    def _setting(self, nodes: Mapping[str, Node | None], kind: Kind, row: Row) -> dict[str, str]:
        """Return the options behind a row, without seeds and paths; given outputs by content."""
        setting: dict[str, str] = {}
        content = {
            origin["from"]: node.identity["inputs"][key]
            for node in (self.measure, *nodes.values())
            if node is not None
            for key, origin in node.identity["origins"].items()
        }
        for name, node in nodes.items():
            if node is None:
                setting[name] = f"given {content[name][:8]}"
            else:
                setting |= _options(name, node)
        setting["measure.runtime"] = str(self.measure.config.get("runtime", "torch"))
        if kind == "chosen":
            setting["measure.max_loss"] = str(self.measure.config["max_loss"])
            # Older versions used the observed loss, which is what a certainty of 0.5 means.
            setting["measure.certainty"] = str(self.measure.config.get("certainty", 0.5))
            # The float model has lengths of the integer model's search: tell the two apart.
            setting["precision"] = row.precision
        return setting


def _options(name: str, node: Node) -> dict[str, str]:
    """Return a stage's options and its start model; the name alone says that the stage ran."""
    found = {name: "on", f"{name}.version": str(node.identity["version"])}
    for key, value in leaves(node.config):
        if key.rpartition(".")[2] != SEED and value is not None and value is not False:
            found[f"{name}.{key}"] = _text(value)
    for key, value in node.identity.get("revised", {}).items():
        found[f"{name}.revised.{key}"] = value
    for key, origin in node.identity["origins"].items():
        if "detail" in origin and key != DATA:
            content = node.identity["inputs"][key]
            own = "" if content.startswith("name:") else f" {content[:8]}"
            found[origin["from"]] = PurePath(origin["detail"]["value"]).name + own
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(_text, value))
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)


def _matching(
    setting: Mapping[str, str], named: Collection[str], nodes: Mapping[str, Node | None]
) -> Iterator[str]:
    """Yield the options of a setting that were named, by their stage or by its name in the run."""
    for key in setting:
        name, _, option = key.partition(".")
        node = nodes.get(name)
        if node is None:
            word = key if option else f"{name}.given"
        else:
            word = f"{node.identity['stage']}.{option or 'enabled'}"
        if any(word == one or word.startswith(f"{one}.") for one in named):
            yield key


def _costs(nodes: Mapping[str, Node | None]) -> Costs:
    works = [node.work() for node in nodes.values() if node is not None]
    return Costs(
        training=tuple(work for work in works if work.steps),
        other=tuple(work for work in works if not work.steps),
        missing=tuple(name for name, node in nodes.items() if node is None),
    )
