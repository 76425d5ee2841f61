"""The report as one page that needs no network: interactive charts, table, provenance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from string import Template
from types import MappingProxyType
from typing import Any

from quala.report.html import chart, document, layout, tagged
from quala.report.rows import Report
from quala.report.series import Chart, Kind, charts
from quala.report.table import headings, metric_name, table_cells

_STYLES: Mapping[Kind, Mapping[str, Any]] = MappingProxyType(
    {
        "candidates": {"color": "#9ca3af", "symbol": "circle", "size": 6, "opacity": 0.45},
        "baseline": {"color": "#222222", "symbol": "diamond", "size": 12},
        "float": {"color": "#c2410c", "symbol": "square", "size": 11},
        "supernet": {"color": "#c2410c", "symbol": "square", "size": 6},
        "integer": {"color": "#7c3aed", "symbol": "triangle-up", "size": 12},
        "front": {"color": "#0369a1", "symbol": "circle", "size": 9},
        "chosen": {"color": "#f59e0b", "symbol": "star", "size": 17},
    }
)

_BODY = Template("""<p class="lead">$lead</p>
<div class="charts">$charts</div>
<h2>Measured</h2>
<div class="wide">$table</div>
<p class="lead">$note</p>
<h2>Where it comes from</h2>
$provenance""")

_NOTE = (
    "Scores on the test set. Latency: median / 90th / 99th percentile, per input. GMACs padded: "
    "an input padded to the full sequence; GMACs mean: the average over the real inputs. "
    "Speed-up: median latency against the first row's."
)


def page_html(report: Report) -> str:
    """Return the page; everything that it needs is inside, plotly included."""
    metrics = report.metrics()
    lead = f"Hypervolume {metrics['hypervolume']:.4f}, {len(report.front)} points on the front"
    if report.candidates:
        lead += f", {len(report.candidates)} candidates tried"
    body = _BODY.substitute(
        lead=escape(f"{lead}."),
        charts="".join(_chart_html(one, report.metric) for one in charts(report)),
        table=_table_html(report),
        note=escape(_NOTE),
        provenance=_provenance_html(report.provenance),
    )
    return document(report.title, body)


def _chart_html(shown: Chart, metric: str) -> str:
    from plotly import graph_objects

    name = metric_name(metric)
    figure = graph_objects.Figure(layout=layout(shown.cost, f"{name}, percent"))
    figure.add_scatter(
        x=[mark.x for mark in shown.front],
        y=[mark.y for mark in shown.front],
        mode="lines",
        line={"color": _STYLES["front"]["color"]},
        hoverinfo="skip",
        showlegend=False,
    )
    for series in shown.series:
        figure.add_scatter(
            x=[mark.x for mark in series.marks],
            y=[mark.y for mark in series.marks],
            text=[escape(mark.text) for mark in series.marks],
            name=series.label,
            mode="markers",
            marker=dict(_STYLES[series.kind]),
            hovertemplate=f"%{{text}}<br>{name} %{{y:.2f}}<br>{shown.cost} %{{x:.4g}}"
            "<extra></extra>",
        )
    return chart(figure)


def _table_html(report: Report) -> str:
    body = "".join(
        f'<tr class="{row.role}">{tagged("td", texts)}</tr>'
        for row, texts in zip(report.rows, table_cells(report.rows, tails=True))
    )
    head = tagged("th", headings(report.rows))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _provenance_html(provenance: Mapping[str, str]) -> str:
    rows: Iterable[str] = (
        f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>"
        for name, text in provenance.items()
    )
    return f'<table class="provenance">{"".join(rows)}</table>'
