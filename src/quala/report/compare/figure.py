"""The charts of a comparison as a picture: numbered marks, error bars, the front over all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quala.report.compare.chart import DISTANCE, FRONT_LABEL, Chart, free_angles
from quala.report.compare.style import FRONT, INK, Style
from quala.report.figure import GRID, MUTED, one_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_charts(
    shown: Sequence[Chart], file: Path, *, score: str, names: Mapping[str, str],
    styles: Mapping[str, Style],
) -> None:  # fmt: skip
    """Write the charts beside one another as a PNG; the score axis and the legend are shared.

    `names` and `styles` are those of the systems; `score` is the axis's title.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6 * len(shown), 5.6), dpi=160, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axis, chart in zip(axes, shown):
        _draw(axis, chart, names, styles)
    axes[0].set_ylabel(score, color=INK)
    one_legend(figure, axes, columns=5)
    canvas.draw()  # settles where the axes are, which the numbers are placed by
    for axis, chart in zip(axes, shown):
        _number(axis, chart, styles)
    figure.savefig(file)


def _draw(axis: Axes, chart: Chart, names: Mapping[str, str], styles: Mapping[str, Style]) -> None:
    if chart.logarithmic:
        _logarithmic(axis, chart.ticks)
    # Lowest, so that it covers no mark: what is to the right of and below it is beaten.
    axis.plot(
        [mark.x for mark in chart.front],
        [mark.y for mark in chart.front],
        color=FRONT,
        linewidth=1.8,
        drawstyle="steps-post",
        label=FRONT_LABEL,
        zorder=2,
    )
    for one in chart.series:
        style = styles[one.system]
        marker: dict[str, Any] = {
            "marker": style.marker,
            "color": style.colour,
            "linestyle": "none",
        }
        if one.others:
            x, y = zip(*one.others)
            axis.plot(x, y, markersize=3.5, alpha=0.35, zorder=3, **marker)
        axis.errorbar(
            [mark.x for mark in one.marks],
            [mark.y for mark in one.marks],
            yerr=[mark.error for mark in one.marks],
            markersize=8,
            markeredgecolor="white",
            elinewidth=1.3,
            capsize=3,
            label=names[one.system],
            zorder=4,
            **marker,
        )
    _dress(axis, chart.cost)
    if not chart.logarithmic:
        axis.set_xlim(left=0)


def _logarithmic(axis: Axes, ticks: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())


def _dress(axis: Axes, cost: str) -> None:
    axis.margins(x=0.09, y=0.09)
    axis.set_xlabel(cost, color=INK)
    axis.grid(color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=MUTED)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(MUTED)


def _number(axis: Axes, chart: Chart, styles: Mapping[str, Style]) -> None:
    """Write each mark's number beside it, where it covers least."""
    marks = [(mark, styles[one.system]) for one in chart.series for mark in one.marks]
    points = axis.transData.transform([(mark.x, mark.y) for mark, _ in marks])
    scale = axis.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    for (mark, style), angle in zip(marks, free_angles(points / scale)):
        axis.annotate(
            str(mark.number),
            (mark.x, mark.y),
            xytext=(DISTANCE * np.cos(angle), DISTANCE * np.sin(angle)),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            color=style.colour,
            zorder=5,
        )
