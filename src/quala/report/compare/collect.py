"""From the tracking store to trials: what a workflow run says of its models."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from quala.errors import QualaError
from quala.report.compare.lineage import Lineage, Node
from quala.report.compare.trial import TEACHER, Costs, Kind, Place, Trial
from quala.report.rows import FINE_TUNED, Report, Row
from quala.report.store import REPORT_STAGE
from quala.workflow.identity import leaves
from quala.workflow.run import WORKFLOW

if TYPE_CHECKING:
    from mlflow.entities import Run

    from quala.report.store import Reports

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
