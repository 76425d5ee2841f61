"""A comparison as one page that needs no network: tables, charts, what the papers say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from quala.compare.charts import FRONT, FRONT_LABEL, Chart, Series, charts, free_angles
from quala.compare.group import Table
from quala.compare.text import (
    CLAIMS,
    CLAIMS_NOTE,
    TITLE,
    TRAINING,
    Comparison,
    cells,
    headings,
    notes,
    provenance,
    training_cells,
)
from quala.report.page import chart, document, layout, tagged
from quala.report.table import metric_name

_STYLE = """body { max-width: 110rem; } h3 { font-size: 1rem; margin: 1.5rem 0 .3rem; }
th { vertical-align: bottom; } td { vertical-align: top; }
th:nth-child(3), td:nth-child(3) { text-align: left; }
table.measured { font-size: 13px; } table.measured td { padding: .3rem .4rem; }
table.measured td { white-space: nowrap; }
table.measured td:nth-child(3), table.measured td:nth-child(5), table.measured td:last-child {
  white-space: normal; min-width: 5.5rem; }
table.measured th:last-child, table.measured td:last-child {
  text-align: left; color: #6b7280; font-style: italic; border-left: 2px solid #d1d5db;
  min-width: 13rem; }
table.plain th, table.plain td { text-align: left; }
ul { margin-top: .3rem; color: #6b7280; overflow-wrap: anywhere; }
"""
PLOT = np.array([400.0, 240.0])
"""Width and height of a chart on a common screen, in 1/72 inch."""
TEXT_PLACES = (
    "middle right", "top right", "top center", "top left",
    "middle left", "bottom left", "bottom center", "bottom right",
)  # fmt: skip
"""Plotly's words for the directions, by eighths of a turn."""


def page_html(comparison: Comparison) -> str:
    """Return the page; everything that it needs is inside, plotly included."""
    return document(TITLE, "\n".join(_body(comparison)), style=_STYLE)


def _body(comparison: Comparison) -> Iterator[str]:
    for table in comparison.tables:
        yield from _table(table, comparison)
    if comparison.shown_claims:
        yield "<h2>What the papers say</h2>"
        yield f'<p class="lead">{escape(CLAIMS_NOTE)}</p>'
        yield _html_table(CLAIMS, comparison.claim_cells(), kind="plain")
    if comparison.left_out:
        yield "<h2>Left out</h2>"
        yield _list([f"{run}: {why}" for run, why in comparison.left_out.items()])


def _table(table: Table, comparison: Comparison) -> Iterator[str]:
    yield f"<h2>{escape(table.title)}</h2>"
    yield f'<p class="lead">Data {escape(table.data[:16])}</p>'
    shown = (_chart(one, table, comparison) for one in charts(table))
    yield f'<div class="charts">{"".join(shown)}</div>'
    yield _html_table(headings(table), cells(table, comparison.claims), kind="measured")
    yield _list(notes(table))
    told = [f"{line.number}: {line.differences}" for line in table.lines if line.differences]
    if told:
        yield "<h3>Settings, in full</h3>"
        yield _list(told)
    training = training_cells(table)
    if training:
        yield "<h3>Training</h3>"
        yield _html_table(TRAINING, training, kind="training")
    yield "<h3>Runs</h3>"
    yield _list(provenance(table))


def _chart(shown: Chart, table: Table, comparison: Comparison) -> str:
    from plotly import graph_objects

    name = metric_name(table.metric)
    figure = graph_objects.Figure(layout=layout(shown.cost, f"{name}, percent"))
    # Room for a legend of all systems below, and for numbers above the highest marks.
    figure.update_layout(height=540, margin={"t": 40})
    if shown.logarithmic:
        ticks = [f"{tick:g}" for tick in shown.ticks]
        figure.update_xaxes(type="log", rangemode="normal", tickvals=shown.ticks, ticktext=ticks)
    figure.add_scatter(
        x=[mark.x for mark in shown.front],
        y=[mark.y for mark in shown.front],
        mode="lines",
        line={"color": FRONT, "width": 2, "shape": "hv"},
        name=FRONT_LABEL,
        hoverinfo="skip",
    )
    hover = f"{name} %{{y:.2f}}<br>{escape(shown.cost)} %{{x:.4g}}"
    places = _text_places(shown)
    for series in shown.series:
        _add(figure, series, hover, places, comparison)
    return chart(figure)


def _text_places(shown: Chart) -> dict[int, str]:
    """Return where the number of each mark stands, by number, as if the page were of one size."""
    marks = [mark for one in shown.series for mark in one.marks]
    scaled = np.log if shown.logarithmic else np.asarray
    points = np.stack([scaled([mark.x for mark in marks]), [mark.y for mark in marks]], axis=1)
    span = np.ptp(points, axis=0)
    sizes = np.where(span > 0, PLOT / np.where(span > 0, span, 1.0), 0.0)
    angles = free_angles(points * sizes)
    places = (TEXT_PLACES[round(angle / (np.pi / 4)) % 8] for angle in angles)
    return {mark.number: place for mark, place in zip(marks, places)}


def _add(
    figure: Any, series: Series, hover: str, places: Mapping[int, str], comparison: Comparison
) -> None:
    style, name = comparison.styles[series.system], comparison.names[series.system]
    if series.others:
        x, y = zip(*series.others)
        figure.add_scatter(
            x=x,
            y=y,
            mode="markers",
            marker={"color": style.color, "symbol": style.symbol, "size": 5, "opacity": 0.35},
            showlegend=False,
            hovertemplate=f"{escape(name)}, other lengths<br>{hover}<extra></extra>",
        )
    figure.add_scatter(
        x=[mark.x for mark in series.marks],
        y=[mark.y for mark in series.marks],
        error_y={"array": [mark.error for mark in series.marks], "thickness": 1.3, "width": 3},
        text=[str(mark.number) for mark in series.marks],
        customdata=[escape(f"{mark.number}: {name} {mark.text}") for mark in series.marks],
        textposition=[places[mark.number] for mark in series.marks],
        textfont={"color": style.color, "size": 11},
        mode="markers+text",
        cliponaxis=False,
        marker={
            "color": style.color,
            "symbol": style.symbol,
            "size": 10,
            "line": {"color": "white", "width": 1},
        },
        name=name,
        hovertemplate=f"%{{customdata}}<br>{hover}<extra></extra>",
    )


def _html_table(names: Sequence[str], rows: Sequence[Sequence[str]], *, kind: str) -> str:
    body = "".join(f"<tr>{tagged('td', texts)}</tr>" for texts in rows)
    head = tagged("th", names)
    table = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="wide"><table class="{kind}">{table}</table></div>'


def _list(texts: Sequence[str]) -> str:
    return f"<ul>{tagged('li', texts)}</ul>"
