"""What the pages of quala have in common: one file that needs no network, tables, charts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from string import Template
from types import MappingProxyType
from typing import Any

from quala.report.charts import Chart, Kind, charts
from quala.report.table import headings, metric_name, table_cells
from quala.results import Report

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto; max-width: 76rem;
       padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p.lead { color: #6b7280; margin-top: .25rem; }
.charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem; }
@media (max-width: 60rem) { .charts { grid-template-columns: minmax(0, 1fr); } }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #e5e7eb; text-align: right; }
th:nth-child(-n+2), td:nth-child(-n+2), .left { text-align: left; }
tr.chosen { background: #fef3c7; font-weight: 600; }
table.provenance th, table.provenance td { text-align: left; font-weight: 400; }
table.provenance th { color: #6b7280; } table.provenance td { overflow-wrap: anywhere; }
$style</style>
<script>$plotly</script>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")


def document(title: str, body: str, *, style: str = "") -> str:
    """Return a whole page, plotly included; `body` is HTML, `title` is text."""
    from plotly.offline import get_plotlyjs

    return _PAGE.substitute(title=escape(title), body=body, plotly=get_plotlyjs(), style=style)


def chart(figure: Any) -> str:
    """Return a plotly figure as a part of a page."""
    from plotly.io import to_html

    options = {"displaylogo": False, "responsive": True}
    return str(to_html(figure, include_plotlyjs=False, full_html=False, config=options))


def layout(cost: str, score: str) -> dict[str, Any]:
    """Return the layout of a chart of score against cost."""
    axis = {"gridcolor": "#e5e7eb", "zeroline": False, "linecolor": "#6b7280"}
    return {
        "xaxis": {**axis, "title": {"text": cost}, "rangemode": "tozero"},
        "yaxis": {**axis, "title": {"text": score}},
        "plot_bgcolor": "white",
        "height": 460,
        "margin": {"l": 60, "r": 20, "t": 20, "b": 60},
        "legend": {"orientation": "h", "y": -0.2},
        "hoverlabel": {"align": "left"},
    }


def tagged(tag: str, texts: Sequence[str]) -> str:
    """Return each text, escaped, in a tag of its own."""
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)


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
