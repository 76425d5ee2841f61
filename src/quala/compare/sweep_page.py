"""A sweep's table as texts, CSV and JSON, its chart of all fronts, and the files of its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quala.compare.group import SIGNED, Spread
from quala.compare.sweep import (
    FIGURES,
    SCORE,
    Figure,
    JobLine,
    SettingLine,
    SweepTable,
)
from quala.compare.text import INTERVAL
from quala.compare.write import look
from quala.durable import located, replacing
from quala.metrics.interval import interval_text
from quala.report.charts import BLUE, Chart, FrontLine, Mark, Series, Style, front_marks
from quala.report.figure import draw_charts
from quala.report.page import render
from quala.report.table import ABSENT, format_number, to_csv, to_frame
from quala.results import GIGA, Row

if TYPE_CHECKING:
    from pandas import DataFrame

FORMAT = 1
BEST = " *"
MOST_COLORS = 12
"""More settings than these are told apart by their numbers only. A choice by eye."""
MOST_LABELS = 40
FRONT = FrontLine("#9ca3af", "Pareto front of all jobs", steps=True)


def title_of(table: SweepTable) -> str:
    """Return the heading of a sweep."""
    study = f", study {table.study}" if table.study else ""
    return f"Sweep of {table.workflow}, {len(table.jobs)} jobs{study}"


def job_texts(table: SweepTable, lines: Sequence[JobLine]) -> DataFrame:
    """Return a row for each job; figures that all jobs have alike are for `job_notes`."""
    best = table.best
    same = _same(table)
    ended = {"finished"} != {line.job.status for line in lines}
    intervals = any(_interval(line) for line in lines)
    return to_frame(
        {
            ("Trial" if table.study else "Job"): f"{line.number}{BEST if line in best else ''}",
            **line.values,
            **{
                heading: text
                for name, figure in table.figures.items()
                if name not in same
                for heading, text in _cells(line, name, figure, intervals=intervals)
            },
            **({"Status": line.job.status} if ended else {}),
            "Run": line.run_id or ABSENT,
        }
        for line in lines
    )


def _cells(line: JobLine, name: str, figure: Figure, *, intervals: bool) -> list[tuple[str, str]]:
    shown = [(figure.heading, format_number(line.figures.get(name), figure.form))]
    if name == SCORE and intervals:
        shown.append((INTERVAL, interval_text(_interval(line))))
    return shown


def _interval(line: JobLine) -> tuple[float, float] | None:
    return line.row.interval if line.row else None


def _busy(line: JobLine) -> bool:
    return bool(line.row and line.row.latency_ms and line.row.latency_ms.busy)


def _same(table: SweepTable) -> dict[str, float]:
    """Return the figures but the score that several jobs have, and all alike."""
    found = {}
    for name in table.figures:
        values = [line.figures[name] for line in table.jobs if name in line.figures]
        texts = {format_number(value, table.figures[name].form) for value in values}
        if name in FIGURES and name != SCORE and len(values) > 1 and len(texts) == 1:
            found[name] = values[0]
    return found


def setting_texts(table: SweepTable) -> DataFrame | None:
    """Return a row for each setting with the spread over seeds, None without such."""
    if not table.repeated:
        return None
    same = _same(table)
    return to_frame(
        {
            **_named(one, best=one == table.best_setting),
            "n": str(sum(bool(job.figures) for job in one.jobs)),
            **{
                figure.heading: spread.text(figure.form)
                if (spread := one.spread(name))
                else ABSENT
                for name, figure in table.figures.items()
                if name not in same
            },
        }
        for one in table.settings
    )


def _named(one: SettingLine, *, best: bool) -> dict[str, str]:
    values = dict(one.setting) or {"Setting": "all jobs"}
    first = next(iter(values))
    return values | {first: f"{values[first]}{BEST * best}"}


def spread_note() -> str:
    """Say what the spread over seeds is."""
    return (
        f"Over seeds: the mean {SIGNED} the sample's standard deviation (n - 1); of two seeds the "
        "mean and both values. n is the number of jobs with figures."
    )


def job_notes(table: SweepTable) -> list[str]:
    """Return the sentences that the table of the jobs needs."""
    found = []
    scored = [line.report for line in table.jobs if line.report]
    if scored:
        chosen = any(report.chosen for report in scored)
        of = "of the chosen lengths, of the full length where none were chosen" * chosen
        found.append(
            f"Figures are {of or 'of the full length'}, on the test set; GMACs and ms per input"
            f"{', loss against the full length of the same model' * chosen}; speed-up over the "
            "float model."
        )
    if table.best:
        aims = " and ".join(f"{name} ({way})" for name, way in table.directions.items())
        words = "not dominated in" if len(table.directions) > 1 else "the best by"
        why = f"{words} {aims}" if aims else f"the highest {table.figures[SCORE].heading}"
        found.append(f"Marked with{BEST}: {why}.")
    busy = [str(line.number) for line in table.jobs if _busy(line)]
    if busy:
        found.append(f"Timed while the machine was busy: job {', '.join(busy)}.")
    if same := _same(table):
        texts = [f"{table.figures[name].heading} {table.figures[name].form.format(value)}"
                 for name, value in same.items()]  # fmt: skip
        found.append(f"The same in all jobs: {', '.join(texts)}.")
    return found


def failures(table: SweepTable) -> list[str]:
    """Return why jobs failed, and what of a finished job a study could not use."""
    found = [f"Job {line.number} {line.job.status}: {' '.join(line.job.error.split())[:300]}"
             for line in table.jobs if line.job.error]  # fmt: skip
    for line in table.jobs:
        absent = [name for name in table.directions if name not in line.figures]
        if absent and line.done:
            found.append(f"Job {line.number} failed as a trial: its run has no `{absent[0]}`.")
    return found


def sweep_json(table: SweepTable, lines: Sequence[JobLine]) -> dict[str, Any]:
    """Return a sweep as plain values; the keys of a job are those of older versions, and more."""
    return {
        "format": FORMAT,
        "run": table.run_id,
        "workflow": table.workflow,
        "study": table.study,
        "objectives": dict(table.directions),
        "varied": table.columns,
        "best": [line.number for line in table.best],
        "jobs": [_record(table, line) for line in lines],
        "settings": [
            {
                "setting": dict(one.setting),
                "jobs": [job.number for job in one.jobs],
                **{name: _spread(one.spread(name)) for name in table.figures},
            }
            for one in table.settings
        ],
    }


def _spread(spread: Spread | None) -> dict[str, Any]:
    values = list(spread.values) if spread else []
    return {
        "n": len(values),
        "mean": spread.mean if spread else None,
        "deviation": spread.deviation if spread else None,
        "values": values,
    }


def _record(table: SweepTable, line: JobLine) -> dict[str, Any]:
    report = line.report
    rows = {"full": report and report.full, "chosen": report and report.chosen}
    metrics = report.metrics() if report else {}
    return {
        "job": line.number,
        "run": line.run_id,
        "overrides": " ".join(line.job.words) or ABSENT,
        "varied": line.values,
        "status": line.job.status,
        "error": line.job.error,
        "metric": report.metric if report else None,
        # one column per meaning, whatever the metric is called
        **{f"score_{key}": row and row.score for key, row in rows.items()},
        **{f"interval_{key}": row and row.interval for key, row in rows.items()},
        "loss_interval": rows["chosen"] and rows["chosen"].loss_interval,
        "examples": next((row.examples for row in rows.values() if row), None),
        **{key: metrics.get(key) for key in ("gmacs_chosen", "macs_saved")},
        **{name: line.figures.get(name) for name in table.figures},
    }


def sweep_csv(table: SweepTable, lines: Sequence[JobLine]) -> str:
    """Return CSV with a header, unrounded; absent figures are empty."""

    def record(line: JobLine) -> dict[str, object]:
        low, high = _interval(line) or (None, None)
        return {
            "job": line.number,
            **line.values,
            "status": line.job.status,
            "metric": line.report.metric if line.report else None,
            "score_95_low": low,
            "score_95_high": high,
            **{name: line.figures.get(name) for name in table.figures},
            "run": line.run_id,
            "error": line.job.error,
        }

    return to_csv(map(record, lines))


def sweep_charts(table: SweepTable) -> tuple[Chart, ...]:
    """Return the fronts of all jobs: score against MACs and, where measured, against latency."""
    if table.metric is None:
        return ()
    made = (
        _chart(table, "Mean GMACs per input", lambda row: row.macs_mean / GIGA),
        _chart(table, "Median latency per input, ms", lambda row: row.median_ms),
    )
    return tuple(chart for chart in made if chart.series)


def _chart(table: SweepTable, title: str, cost: Callable[[Row], float | None]) -> Chart:
    settings = table.settings
    few = len(settings) <= MOST_COLORS
    series: list[Series] = []
    for number, setting in enumerate(settings):
        style = look(number) if few else Style(BLUE, "circle", 8, 10)
        faint = replace(style, size=3.5, pixels=5, opacity=0.45)
        chosen = []
        for line in setting.jobs:
            marks = [mark for row in _rows(line) for mark in _marks(line, row, cost)]
            marks.sort(key=lambda mark: mark.x)
            if len(marks) > 1:
                series.append(Series(f"job {line.number}", "", faint, tuple(marks), joined=True))
            label = str(line.number) if len(table.jobs) <= MOST_LABELS else ""
            chosen += [replace(mark, label=label) for mark in _marks(line, line.row, cost)]
        name = (setting.label or "jobs") if few else "jobs" * (number == 0)
        if chosen:
            series.append(Series(f"setting {number}", name, style, tuple(chosen)))
    marks = [mark for one in series for mark in one.marks]
    metric = table.figures[SCORE].heading if marks else ""
    return Chart(
        cost=title, score=metric, series=tuple(series), front=front_marks(marks), line=FRONT
    )


def _rows(line: JobLine) -> list[Row]:
    if line.report is None:
        return []
    full = [line.report.full] if line.report.full else []
    return [*line.report.front, *(row for row in full if row not in line.report.front)]


def _marks(line: JobLine, row: Row | None, cost: Callable[[Row], float | None]) -> list[Mark]:
    place = cost(row) if row else None
    if row is None or place is None or row.score is None:
        return []
    words = ", ".join(f"{name}={value}" for name, value in line.values.items())
    return [Mark(place, row.score, f"Job {line.number}, {words}: {row.tokens}")]


def build_sweep(
    folder: Path, table: SweepTable, lines: Sequence[JobLine], pages: Mapping[str, str]
) -> list[Path]:
    """Write sweep.html, .md, .csv, .json and .png, the jobs in this order; return the files.

    `pages` are addresses of reports by run. Without a measured job there is no figure.
    """
    charts = sweep_charts(table)
    shown = {
        "title": title_of(table),
        "table": table,
        "charts": charts,
        "jobs": job_texts(table, lines),
        "best": [number for number, line in enumerate(lines) if line in table.best],
        "settings": setting_texts(table),
        "notes": job_notes(table),
        "spread_note": spread_note(),
        "failures": failures(table),
        "pages": pages,
    }
    texts = {
        "sweep.html": render("sweep.html.j2", **shown),
        "sweep.md": render("sweep.md.j2", **shown).rstrip() + "\n",
        "sweep.csv": sweep_csv(table, lines),
        "sweep.json": json.dumps(sweep_json(table, lines), indent=1) + "\n",
    }
    for name, content in texts.items():
        with replacing(folder / name) as partial:
            partial.write_text(content, encoding="utf-8")
    if charts:
        with located(folder / "sweep.png"):
            draw_charts(charts, folder / "sweep.png")
    return [folder / name for name in (*texts, *(["sweep.png"] if charts else []))]
