"""What the pages of quala have in common: one file that needs no network, tables, charts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from string import Template
from typing import Any

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
