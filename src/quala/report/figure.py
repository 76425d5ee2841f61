"""The front as a picture: score against MACs and against latency."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from quala.report.charts import Chart, Kind, charts
from quala.report.table import metric_name
from quala.results import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from quala.search.result import SearchResult


INK, MUTED, GRID = "#222222", "#6b7280", "#e5e7eb"

_STYLES: Mapping[Kind, Mapping[str, Any]] = MappingProxyType(
    {
        "candidates": {"color": "#9ca3af", "marker": "o", "markersize": 3.5, "alpha": 0.45},
        "baseline": {"color": INK, "marker": "D", "markersize": 8},
        "float": {"color": "#c2410c", "marker": "s", "markersize": 8},
        "supernet": {"color": "#c2410c", "marker": "s", "markersize": 4.5},
        "integer": {"color": "#7c3aed", "marker": "^", "markersize": 9},
        "front": {"color": "#0369a1", "marker": "o", "markersize": 6},
        "chosen": {"color": "#f59e0b", "marker": "*", "markersize": 17},
    }
)


def draw_front(report: Report, file: Path) -> None:
    """Write the charts beside one another as a PNG; the score axis is shared."""
    # The object interface: pyplot keeps global state and may look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = charts(report)
    figure = Figure(figsize=(6.2 * max(1, len(shown)), 4.9), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, max(1, len(shown)), sharey=True, squeeze=False)[0]
    for number, (axis, chart) in enumerate(zip(axes, shown)):
        _draw(axis, chart)
        if number == 0:
            axis.set_ylabel(f"{metric_name(report.metric)}, percent", color=INK)
    one_legend(figure, axes, columns=7)
    figure.savefig(file)


def one_legend(figure: Figure, axes: Iterable[Axes], *, columns: int) -> None:
    """Put one legend of all axes below them, in at most so many columns."""
    handles: dict[str, Any] = {}
    for axis in axes:
        drawn, labels = axis.get_legend_handles_labels()
        handles |= dict(zip(labels, drawn))
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=min(columns, max(1, len(handles))),
        frameon=False,
    )


def _draw(axis: Axes, chart: Chart) -> None:
    axis.plot(
        [mark.x for mark in chart.front],
        [mark.y for mark in chart.front],
        color=_STYLES["front"]["color"],
        linewidth=1.6,
    )
    for series in chart.series:
        axis.plot(
            [mark.x for mark in series.marks],
            [mark.y for mark in series.marks],
            linestyle="none",
            markeredgecolor="none" if series.kind == "candidates" else "white",
            markeredgewidth=0.8,
            label=series.label,
            zorder=2 + list(_STYLES).index(series.kind),
            **_STYLES[series.kind],
        )
    axis.set_xlim(left=0)
    axis.margins(y=0.08)
    axis.set_ylim(bottom=_lowest_shown(chart))
    axis.set_xlabel(chart.cost, color=INK)
    axis.grid(color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=MUTED)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(MUTED)


def _lowest_shown(chart: Chart) -> float:
    """Leave hopeless candidates out below: they would press the front flat."""
    measured = [mark.y for one in chart.series if one.kind != "candidates" for mark in one.marks]
    tried = [mark.y for one in chart.series for mark in one.marks]
    if not measured:
        return min(tried)
    span = max(max(measured) - min(measured), 1.0)
    return max(min(tried), min(measured) - span) - 0.08 * span


def draw_history(result: SearchResult, file: Path, *, metric: str) -> None:
    """Write the hypervolume after each evaluation as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 4.0), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    history = result.history
    axis.step(range(1, len(history) + 1), history, where="post", color="#0369a1", linewidth=1.6)
    axis.set_xlabel("lengths evaluated")
    axis.set_ylabel(f"mean best {metric} over the range of costs")
    axis.grid(color="#e5e7eb", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)
