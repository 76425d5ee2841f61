"""Charts as PNG files, by matplotlib."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quala.redact import visible
from quala.report.charts import BLUE, GRID, INK, LABEL_DISTANCE, MUTED, Chart, label_angles

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from quala.search.result import SearchResult


WIDTH, HEIGHT = 6.4, 5.2
"""Inches of one chart."""
MARKERS = {
    "circle": "o", "square": "s", "diamond": "D", "star": "*", "cross": "P", "x": "X",
    "hexagon": "h", "triangle-up": "^", "triangle-down": "v", "triangle-left": "<",
    "triangle-right": ">",
}  # fmt: skip
"""Matplotlib's markers by plotly's names."""
LINE_CHARACTERS = 75
"""Characters of a title that fit below one chart."""


def draw_charts(charts: Sequence[Chart], file: Path) -> None:
    """Write the charts beside one another as a PNG; the score axis and the legend are shared."""
    columns = max(1, len(charts))
    with _plain_text():
        figure = _figure(WIDTH * columns, HEIGHT)
        axes = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
        for axis, chart in zip(axes, charts):
            _draw(axis, chart)
        if charts:
            axes[0].set_ylabel(visible(f"{charts[0].score}, percent"), color=INK)
        _legend(figure)
        figure.canvas.draw()  # computes the layout, which the places of the labels depend on
        for axis, chart in zip(axes, charts):
            _label(axis, chart)
        figure.savefig(file)


@contextmanager
def _plain_text() -> Iterator[None]:
    """Let dollar signs be no formulas, and letters that the font lacks no warnings."""
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def draw_history(result: SearchResult, file: Path, *, metric: str) -> None:
    """Write the hypervolume after each evaluation of a search as a PNG."""
    figure = _figure(6.2, 4.0)
    axis = figure.subplots()
    history = result.history
    axis.step(range(1, len(history) + 1), history, where="post", color=BLUE, linewidth=1.6)
    axis.set_xlabel("lengths evaluated")
    axis.set_ylabel(f"mean best {metric} over the range of costs")
    axis.grid(color=GRID, linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)


def _figure(width: float, height: float) -> Figure:
    # The object interface: pyplot keeps global state and may look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw(axis: Axes, chart: Chart) -> None:
    if chart.ticks:
        from matplotlib.ticker import NullLocator

        axis.set_xscale("log")
        axis.set_xticks(chart.ticks, [f"{tick:g}" for tick in chart.ticks])
        axis.xaxis.set_minor_locator(NullLocator())
    axis.plot(
        [mark.x for mark in chart.front],
        [mark.y for mark in chart.front],
        color=chart.line.color,
        linewidth=1.6,
        drawstyle="steps-post" if chart.line.steps else "default",
        label=_name(chart.line.name),
        zorder=2,
    )
    for series in chart.series:
        style = series.style
        faint = style.opacity < 1
        errors = [mark.error for mark in series.marks]
        axis.errorbar(
            [mark.x for mark in series.marks],
            [mark.y for mark in series.marks],
            yerr=errors if any(errors) else None,
            linestyle="-" if series.joined else "none",
            linewidth=1.0,
            color=style.color,
            alpha=style.opacity,
            marker=MARKERS[style.symbol],
            markersize=style.size,
            markeredgecolor="none" if faint else "white",
            markeredgewidth=0.8,
            elinewidth=1.3,
            capsize=3,
            label=_name(series.name),
            zorder=3 if faint else 4,
        )
    axis.margins(x=0.09, y=0.09)
    if not chart.ticks:
        axis.set_xlim(left=0)
    axis.set_ylim(bottom=chart.lowest)
    axis.set_xlabel(textwrap.fill(visible(chart.cost), LINE_CHARACTERS), color=INK)
    axis.grid(color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=MUTED)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(MUTED)


def _name(text: str) -> str | None:
    """Return the name of a line in the legend; matplotlib leaves out those that start with `_`."""
    return visible(f"\u2009{text}" if text.startswith("_") else text) or None


def _legend(figure: Figure) -> None:
    """Put one legend of all axes below them, in as few lines as its width allows."""
    handles: dict[str, Artist] = {}
    for axis in figure.axes:
        drawn, names = axis.get_legend_handles_labels()
        handles |= dict(zip(names, drawn))
    for columns in range(max(1, len(handles)), 0, -1):
        legend = figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=columns,
            frameon=False,
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()


def _label(axis: Axes, chart: Chart) -> None:
    """Write each mark's label beside it, where it covers least."""
    marks = chart.labeled
    if not marks:
        return
    points = axis.transData.transform([(mark.x, mark.y) for mark, _ in marks])
    scale = axis.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    for (mark, style), angle in zip(marks, label_angles(points / scale)):
        axis.annotate(
            visible(mark.label),
            (mark.x, mark.y),
            xytext=(LABEL_DISTANCE * np.cos(angle), LABEL_DISTANCE * np.sin(angle)),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            color=style.color,
            zorder=5,
        )
