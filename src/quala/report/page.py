"""The files of a report, and pages from templates; a page is one file that needs no network."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quala.redact import markdown, recorded
from quala.report.charts import GRID, MUTED, Chart, Mark, Series, label_angles, report_charts
from quala.report.figure import LINE_CHARACTERS, draw_charts
from quala.report.table import (
    class_texts,
    csv_text,
    data_lines,
    footnotes,
    markdown_table,
    other_metrics,
    report_texts,
    to_markdown,
)
from quala.results import REPORT, Point, Report, Row, with_speedups

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


PLOT = np.array([400.0, 240.0])
"""Width and height of a chart on a common screen, in points."""
TEXT_PLACES = (
    "middle right", "top right", "top center", "top left",
    "middle left", "bottom left", "bottom center", "bottom right",
)  # fmt: skip
"""Plotly's names of the directions, by eighths of a turn."""


def build_report(
    folder: Path,
    rows: Sequence[Row],
    *,
    candidates: Sequence[Point] = (),
    provenance: Mapping[str, str] | None = None,
    title: str = "Accuracy against cost",
    data: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Write report.json, report.md, report.csv, front.png and report.html; return the metrics.

    Speed-ups are computed here. `provenance` maps a label (run, command, seed, hardware, date,
    data) to its text. `data` is as in `Report`. Raises QualaError if there are no rows.
    """
    named = [replace(row, model=recorded(row.model)) for row in rows]
    report = Report(
        tuple(with_speedups(named)),
        tuple(candidates),
        recorded(provenance or {}),
        recorded(title),
        recorded(data or {}),
    )
    charts, metrics = report_charts(report), report.metrics()
    shown = {
        "report": report,
        "charts": charts,
        "hypervolume": metrics["hypervolume"],
        "footnotes": [*footnotes(report.rows), *other_metrics(report)],
        "classes": class_texts(report),
        "data": data_lines(report.data),
    }
    texts = {
        REPORT: json.dumps(report.to_json(), indent=1),
        "report.md": render("report.md.j2", table=markdown_table(report.rows), **shown),
        "report.csv": csv_text(report.rows),
        "report.html": render(
            "report.html.j2", table=report_texts(report.rows, tails=True), **shown
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    draw_charts(charts, folder / "front.png")
    return metrics


def render(template: str, **values: Any) -> str:
    """Return a template of this package filled in; texts in `*.html.j2` are escaped."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("quala.report"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["markdown"] = to_markdown
    environment.filters["text"] = markdown
    environment.filters["chart"] = chart_html
    environment.globals["plotly"] = get_plotlyjs
    return environment


def chart_html(chart: Chart) -> Markup:
    """Return a chart as a part of a page that holds plotly."""
    from markupsafe import Markup
    from plotly.graph_objects import Figure
    from plotly.io import to_html

    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": MUTED}
    words = map(escape, textwrap.wrap(chart.cost, LINE_CHARACTERS))
    figure = Figure(
        layout={
            "xaxis": {**axis, "title": {"text": "<br>".join(words)}, "rangemode": "tozero"},
            "yaxis": {**axis, "title": {"text": f"{escape(chart.score)}, percent"}},
            "plot_bgcolor": "white",
            # Room for labels above the highest marks, and for a longer legend below.
            "height": 540 if chart.labeled else 460,
            "margin": {"l": 60, "r": 20, "t": 40 if chart.labeled else 20, "b": 60},
            "legend": {"orientation": "h", "y": -0.2},
            "hoverlabel": {"align": "left"},
        }
    )
    if chart.ticks:
        names = [f"{tick:g}" for tick in chart.ticks]
        figure.update_xaxes(type="log", rangemode="normal", tickvals=chart.ticks, ticktext=names)
    figure.add_scatter(
        x=[mark.x for mark in chart.front],
        y=[mark.y for mark in chart.front],
        mode="lines",
        line={"color": chart.line.color, "shape": "hv" if chart.line.steps else "linear"},
        name=escape(chart.line.name),
        showlegend=bool(chart.line.name),
        hoverinfo="skip",
    )
    places = _text_places(chart)
    for series in chart.series:
        figure.add_scatter(**_scatter(series, chart, places))
    options = {"displaylogo": False, "responsive": True}
    return Markup(to_html(figure, include_plotlyjs=False, full_html=False, config=options))


def _scatter(series: Series, chart: Chart, places: dict[Mark, str]) -> dict[str, Any]:
    style, marks = series.style, series.marks
    errors = [mark.error for mark in marks]
    lines = "lines+" * series.joined
    cost, score = escape(chart.cost), escape(chart.score)
    return {
        "x": [mark.x for mark in marks],
        "y": [mark.y for mark in marks],
        "error_y": {"array": errors, "thickness": 1.3, "width": 3} if any(errors) else None,
        "mode": f"{lines}markers" + "+text" * any(mark.label for mark in marks),
        "line": {"color": style.color, "width": 1},
        "opacity": style.opacity if series.joined else 1,
        "text": [escape(mark.label) for mark in marks],
        "textposition": [places.get(mark, "middle center") for mark in marks],
        "textfont": {"color": style.color, "size": 11},
        "cliponaxis": not places,
        "marker": {
            "color": style.color,
            "symbol": style.symbol,
            "size": style.pixels,
            "opacity": style.opacity,
            "line": {"color": "white", "width": 1 if style.opacity == 1 else 0},
        },
        "name": escape(series.name),
        "showlegend": bool(series.name),
        "customdata": [escape(mark.text) for mark in marks],
        "hovertemplate": f"%{{customdata}}<br>{score} %{{y:.2f}}<br>{cost} %{{x:.4g}}"
        "<extra></extra>",
    }


def _text_places(chart: Chart) -> dict[Mark, str]:
    """Return plotly's name of the direction in which each mark's label covers least."""
    if not chart.labeled:
        return {}
    marks = [mark for mark, _ in chart.labeled]
    points = np.array([(mark.x, mark.y) for mark in marks])
    if chart.ticks:
        points[:, 0] = np.log(points[:, 0])
    span = points.max(0) - points.min(0)
    scale = np.where(span > 0, PLOT / np.where(span > 0, span, 1.0), 0.0)
    angles = label_angles(points * scale)
    return {
        mark: TEXT_PLACES[round(angle / (np.pi / 4)) % 8] for mark, angle in zip(marks, angles)
    }
