"""The jobs of a sweep side by side: what varies, what came out, and the spread over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from quala.compare.group import Spread, natural_order
from quala.compare.store import Reports, SweepJob
from quala.errors import unknown
from quala.metrics.interval import metric_name
from quala.report.table import MIB
from quala.results import GIGA, Report, Row
from quala.workflow.sweep import OBJECTIVES, STUDY, best_of, is_seed, varied_options
from quala.workflow.tracking import FINAL, STAGE, WORKFLOW

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True, slots=True)
class Figure:
    """How a figure is shown, and whether more of it is better; None where that is not known."""

    heading: str
    form: str = "{:.4g}"
    more: bool | None = None


SCORE = "score"
FIGURES: Mapping[str, Figure] = {
    SCORE: Figure("Score", "{:.2f}", more=True),
    "loss": Figure("Loss", "{:.2f}", more=False),
    "gmacs": Figure("GMACs", "{:.3f}", more=False),
    "ms": Figure("ms", "{:.2f}", more=False),
    "speedup": Figure("Speed-up", "{:.2f}x", more=True),
    "mib": Figure("MiB", "{:.2f}", more=False),
    "saved": Figure("Saved", "{:.2f}x", more=True),
    "hypervolume": Figure("Hypervolume", "{:.4f}", more=True),
}
"""Of the chosen lengths, of the full length where none were chosen."""


def measured_figures(report: Report) -> dict[str, float]:
    """Return those of the `FIGURES` that a report has."""
    row, full, summary = shown_row(report), report.full, report.metrics()
    if row is None:
        return {}
    loss = None
    if full is not None and full.score is not None and row.score is not None:
        loss = full.score - row.score
    found = {
        SCORE: row.score,
        "loss": loss if report.chosen else None,
        "gmacs": row.macs_mean / GIGA,
        "ms": row.median_ms,
        "speedup": row.own_speedup or row.speedup,
        "mib": row.size_bytes / MIB,
        "saved": summary.get("macs_saved"),
        "hypervolume": summary["hypervolume"],
    }
    return {name: value for name, value in found.items() if value is not None}


def shown_row(report: Report) -> Row | None:
    """Return the row that stands for a job: the chosen one, or the full length."""
    return report.chosen or report.full


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLine:
    """One job: its values of what varies, and its figures; `seeds` are apart from the rest."""

    job: SweepJob
    setting: Mapping[str, str]
    seeds: Mapping[str, str]
    report: Report | None
    figures: Mapping[str, float]

    @property
    def number(self) -> int:
        """The number of the job, that of its trial in a study."""
        return self.job.number

    @property
    def row(self) -> Row | None:
        """The row that stands for the job: the chosen lengths, or the full length."""
        return shown_row(self.report) if self.report else None

    @property
    def done(self) -> bool:
        """Whether the job came to its end."""
        return self.job.status in ("finished", "cached")

    @property
    def run_id(self) -> str | None:
        """The workflow run of the job, None where it had none."""
        return self.job.run.info.run_id if self.job.run else None

    @property
    def values(self) -> dict[str, str]:
        """All that varies, seeds last."""
        return {**self.setting, **self.seeds}


@dataclass(frozen=True, slots=True)
class SettingLine:
    """The jobs that differ in the seed only."""

    setting: Mapping[str, str]
    jobs: tuple[JobLine, ...]

    @property
    def label(self) -> str:
        """The setting in words."""
        return ", ".join(f"{name}={value}" for name, value in self.setting.items())

    def spread(self, figure: str) -> Spread | None:
        """Return a figure over the seeds, None where no job has it."""
        return Spread.of(job.figures.get(figure) for job in self.jobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTable:
    """The jobs of a sweep; `directions` are those of the objectives of a study."""

    run_id: str
    workflow: str
    study: str | None
    directions: Mapping[str, str]
    jobs: tuple[JobLine, ...]
    figures: Mapping[str, Figure]
    """Those that a job has, in the order of the columns."""

    @classmethod
    def read(cls, reports: Reports, sweep: Run) -> SweepTable:
        """Read a sweep. Raises QualaError for a damaged report."""
        jobs, tags = reports.jobs(sweep), sweep.data.tags
        directions: dict[str, str] = json.loads(tags.get(OBJECTIVES, "{}"))
        values = varied_options([job.words for job in jobs], {*FIGURES, "job"})
        lines, known = list[JobLine](), dict[str, "Run"]()
        for job, own in zip(jobs, values, strict=True):
            report = reports.measured(job.run) if job.run else None
            figures = measured_figures(report) if report else _last(reports, job.run, known)
            metrics = job.run.data.metrics if job.run else {}
            aims = {name: metrics[name] for name in directions if name in metrics}
            seeds = {name: text for name, text in own.items() if is_seed(name)}
            setting = {name: text for name, text in own.items() if name not in seeds}
            line = JobLine(
                job=job, setting=setting, seeds=seeds, report=report, figures={**aims, **figures}
            )
            lines.append(line)
        return cls(
            run_id=sweep.info.run_id,
            workflow=tags.get(WORKFLOW, "sweep"),
            study=tags.get(STUDY),
            directions=directions,
            jobs=tuple(lines),
            figures=_known(lines, directions),
        )

    @property
    def columns(self) -> list[str]:
        """What varies, seeds last."""
        return list(self.jobs[0].values) if self.jobs else []

    @property
    def metric(self) -> str | None:
        """The metric of all scores, None where there are several, or none."""
        found = {line.report.metric for line in self.jobs if line.report}
        return found.pop() if len(found) == 1 else None

    @property
    def best(self) -> list[JobLine]:
        """The jobs with the best score, by fewer GMACs among equals, or of the best objectives.

        Of several objectives, all that no other job dominates. A job that failed is none of them.
        """
        done = [line for line in self.jobs if line.done]
        if self.directions:
            signs = [1 if one == "maximize" else -1 for one in self.directions.values()]
            full = [line for line in done if self.directions.keys() <= line.figures.keys()]
            gains = [
                [sign * line.figures[name] for sign, name in zip(signs, self.directions)]
                for line in full
            ]
            front = [full[place] for place in best_of(gains)]
            return front if len(signs) > 1 else front[:1]
        scored = [line for line in done if SCORE in line.figures]
        return [max(scored, key=_merit)] if scored and self.metric else []

    @property
    def settings(self) -> list[SettingLine]:
        """The jobs grouped by all that varies but seeds, in order of appearance."""
        groups: dict[tuple[str, ...], list[JobLine]] = {}
        for line in self.jobs:
            groups.setdefault(tuple(line.setting.values()), []).append(line)
        return [SettingLine(own[0].setting, tuple(own)) for own in groups.values()]

    @property
    def repeated(self) -> bool:
        """Whether several jobs differ in the seed only."""
        return len(self.settings) < len(self.jobs)

    @property
    def best_setting(self) -> SettingLine | None:
        """The setting with the highest mean score, None where scores are not comparable."""
        scored = [one for one in self.settings if one.spread(SCORE)]
        if not scored or not self.metric or self.directions:
            return None
        return max(scored, key=lambda one: _mean(one, SCORE))

    def ordered(self, by: str | None, *, reverse: bool = False) -> list[JobLine]:
        """Return the jobs by a figure, the best first, or by a value that varies; None: as run.

        Jobs without the figure are the last. Raises QualaError for an unknown name.
        """
        names = {"job": "job", **{name: name for name in (*self.columns, *self.figures)}}
        if SCORE in self.figures and self.metric:
            names |= {self.metric: SCORE}
        if by is not None and by not in names:
            raise unknown("column of `--sort`", by, names)
        name = names[by or "job"]
        sign = -1 if name in self.figures and self.figures[name].more else 1

        def place(line: JobLine) -> Any:
            if name in self.figures:
                return sign * line.figures[name]
            return natural_order(line.values[name])[1] if name in self.columns else line.number

        found = [line for line in self.jobs if name not in self.figures or name in line.figures]
        found.sort(key=place, reverse=reverse)
        return [*found, *(line for line in self.jobs if line not in found)]


def _merit(line: JobLine) -> tuple[float, float]:
    return line.figures[SCORE], -line.figures.get("gmacs", 0.0)


def _mean(line: SettingLine, figure: str) -> float:
    spread = line.spread(figure)
    return spread.mean if spread else 0.0


def _last(reports: Reports, run: Run | None, known: dict[str, Run]) -> dict[str, float]:
    """Return the final metrics of the last stage that a run finished; `known` are stage runs."""
    found = {}
    for key, run_id in run.data.tags.items() if run else ():
        if key.startswith(f"{STAGE}.") and run_id:
            known[run_id] = known.get(run_id) or reports.get(run_id)
            found[key.removeprefix(f"{STAGE}.")] = known[run_id]
    # A stage begins after those whose outputs it takes.
    name = max(found, key=lambda one: found[one].info.start_time, default=None)
    data = found[name].data if name else None
    final = json.loads(data.tags.get(FINAL, "[]")) if data else []
    return {f"{name}.{key}": data.metrics[key] for key in final} if data else {}


def _known(lines: Iterable[JobLine], directions: Mapping[str, str]) -> dict[str, Figure]:
    lines = list(lines)
    found = dict.fromkeys(name for line in lines for name in line.figures)
    named: dict[str, Figure] = {
        name: Figure(name, more=way == "maximize")
        for name, way in directions.items()
        if name in found
    }
    metrics = {line.report.metric for line in lines if line.report}
    heading = metric_name(metrics.pop()) if len(metrics) == 1 else FIGURES[SCORE].heading
    for name, figure in FIGURES.items():
        if name in found and name not in named:
            named[name] = replace(figure, heading=heading) if name == SCORE else figure
    return named | {name: Figure(name) for name in found if name not in named}
