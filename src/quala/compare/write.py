"""Write a comparison: its charts, and the files of its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from quala.compare import text
from quala.compare.group import Comparison, Line, Table
from quala.compare.trials import TEACHER, Place, Trial
from quala.durable import located, replacing
from quala.metrics.interval import metric_name
from quala.report.charts import (
    INK,
    Chart,
    FrontLine,
    Mark,
    Series,
    Style,
    front_marks,
    log_ticks,
)
from quala.report.figure import draw_charts
from quala.report.page import render
from quala.report.table import MIB
from quala.results import GIGA, Row

COLORS = (
    "#0369a1", "#c2410c", "#7c3aed", "#15803d", "#db2777", "#ca8a04", "#0891b2", "#78350f",
    "#84cc16",
)  # fmt: skip
SYMBOLS = (
    "circle", "square", "triangle-up", "triangle-down", "cross", "x", "triangle-left",
    "triangle-right", "hexagon",
)  # fmt: skip
FRONT = FrontLine("#9ca3af", "Pareto front of the rows", steps=True)


def build_comparison(folder: Path, comparison: Comparison) -> list[Path]:
    """Write compare.html, .md, .csv, .json and one figure per table; return the files."""
    looks = styles(comparison.systems)
    drawn = {
        f"compare-{number}.png": table_charts(table, looks)
        for number, table in enumerate(comparison.tables, start=1)
    }
    shown = {
        "title": text.TITLE,
        "comparison": comparison,
        "tables": list(zip(comparison.tables, drawn.values(), drawn)),
        "text": text,
    }
    texts = {
        "compare.html": render("compare.html.j2", **shown),
        "compare.md": render("compare.md.j2", **shown).rstrip() + "\n",
        "compare.csv": text.csv_text(comparison),
        "compare.json": json.dumps(text.to_json(comparison), indent=1) + "\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in texts.items():
        with replacing(folder / name) as partial:
            partial.write_text(content, encoding="utf-8")
    for name, charts in drawn.items():
        with located(folder / name):
            draw_charts(charts, folder / name)
    return [folder / name for name in (*texts, *drawn)]


def styles(systems: Sequence[str]) -> Mapping[str, Style]:
    """Return the style of each system; with more than nine, colors and symbols are recombined."""
    others = [name for name in systems if name != TEACHER]
    return {
        TEACHER: Style(INK, "diamond", 8, 10),
        **{system: look(number) for number, system in enumerate(others)},
    }


def look(number: int) -> Style:
    """Return the style of the system or setting of a number."""
    turn, place = divmod(number, len(COLORS))
    return Style(COLORS[place], SYMBOLS[(place + turn) % len(SYMBOLS)], 8, 10)


def table_charts(table: Table, styles: Mapping[str, Style]) -> tuple[Chart, Chart]:
    """Return score against size, and against latency or, where none was measured, MACs.

    Latencies are those of the place where most lines were timed: times of different machines
    cannot be compared. With one teacher they are shares of its latency, which depend less on the
    other load of the machine. `styles` are those of the systems.
    """
    size = _chart(
        table,
        styles,
        title="Size, MiB",
        line_cost=lambda line: line.mean("size_bytes", MIB),
        row_cost=lambda _, __: None,
    )
    if table.places:
        return size, _latency_chart(table, styles, table.places[0])
    macs = _chart(
        table,
        styles,
        title="Mean GMACs per input",
        line_cost=lambda line: line.mean("macs_mean", GIGA),
        row_cost=lambda _, row: row.macs_mean / GIGA,
    )
    return size, macs


def _latency_chart(table: Table, styles: Mapping[str, Style], place: Place) -> Chart:
    relative = table.one_teacher and all(
        place in line.shares for line in table.lines if place in line.latencies
    )

    def of_line(line: Line) -> float | None:
        found = line.shares if relative else line.latencies
        return found[place].mean if place in found else None

    def of_row(trial: Trial, row: Row) -> float | None:
        if trial.place != place:
            return None
        return trial.share(row) if relative else row.median_ms

    kind = "as a share of the teacher's" if relative else "per input, ms"
    title = f"Median latency {kind} ({place})"
    return _chart(table, styles, title=title, line_cost=of_line, row_cost=of_row)


def _chart(
    table: Table,
    styles: Mapping[str, Style],
    *,
    title: str,
    line_cost: Callable[[Line], float | None],
    row_cost: Callable[[Trial, Row], float | None],
) -> Chart:
    """Return the chart of a table: for each system its lines, and faint its other lengths.

    `row_cost` is the cost of other lengths of a model, None to leave them out.
    """
    series: list[Series] = []
    for system in dict.fromkeys(line.system for line in table.lines):
        own = [line for line in table.lines if line.system == system]
        name, style = own[0].name, styles[system]
        marks = [
            Mark(
                cost,
                line.score.mean,
                f"{line.number}: {name} {line.label}",
                error=line.score.error,
                label=str(line.number),
            )
            for line in own
            if (cost := line_cost(line)) is not None
        ]
        others = [
            Mark(cost, row.score, f"{name}, other lengths")
            for line in own
            for trial in line.trials
            for row in trial.front
            if row.score is not None and (cost := row_cost(trial, row)) is not None
        ]
        if marks and others:
            faint = replace(style, size=3.5, pixels=5, opacity=0.35)
            series.append(Series(system, "", faint, tuple(others)))
        if marks:
            series.append(Series(system, name, style, tuple(marks)))
    lines = [mark for one in series for mark in one.marks if mark.label]
    return Chart(
        cost=title,
        score=metric_name(table.metric),
        series=tuple(series),
        front=front_marks(lines),
        line=FRONT,
        ticks=log_ticks([mark.x for mark in lines]),
    )
