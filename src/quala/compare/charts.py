"""How a system looks in every chart of a comparison: one color and one marker."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quala.compare.group import Line, Table
from quala.compare.trials import TEACHER, Place, Trial
from quala.metrics.pareto import pareto_front
from quala.report.figure import GRID, MUTED, one_legend
from quala.report.table import MIB
from quala.results import GIGA, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


INK, FRONT = "#222222", "#9ca3af"
_COLORS = (
    "#0369a1", "#c2410c", "#7c3aed", "#15803d", "#db2777", "#ca8a04", "#0891b2", "#78350f",
    "#84cc16",
)  # fmt: skip
_MARKERS = (
    ("o", "circle"), ("s", "square"), ("^", "triangle-up"), ("v", "triangle-down"),
    ("P", "cross"), ("X", "x"), ("<", "triangle-left"), (">", "triangle-right"), ("h", "hexagon"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Style:
    """A color, and a marker in the words of matplotlib and of plotly."""

    color: str
    marker: str
    symbol: str


def styles(systems: Sequence[str]) -> Mapping[str, Style]:
    """Return the style of each system; with more than nine, colors and markers part ways."""
    found = {TEACHER: Style(INK, "D", "diamond")}
    for number, system in enumerate(name for name in systems if name != TEACHER):
        turn, place = divmod(number, len(_COLORS))
        marker, symbol = _MARKERS[(place + turn) % len(_MARKERS)]
        found[system] = Style(_COLORS[place], marker, symbol)
    return found


Points = NDArray[np.float64]
Cost = Callable[[Line], float | None]
OtherCost = Callable[[Trial, Row], float | None]
WIDE = 8.0
"""Costs that span more than this factor stand on a logarithmic axis."""
TICKS = (1.0, 2.0, 5.0)
DISTANCE = 11.0
"""Between a mark and the middle of its number, in 1/72 inch."""
FRONT_LABEL = "Pareto front of the rows"


@dataclass(frozen=True, slots=True)
class Mark:
    """A line of the table in a chart; `error` is half the height of its bar."""

    number: int
    x: float
    y: float
    error: float
    text: str


@dataclass(frozen=True, slots=True)
class Series:
    """The marks of one system, and its other lengths as (cost, score)."""

    system: str
    marks: tuple[Mark, ...]
    others: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A scatter of score against one cost; `front` are the marks that no other beats."""

    cost: str
    series: tuple[Series, ...]
    front: tuple[Mark, ...]

    @property
    def logarithmic(self) -> bool:
        """Whether the costs span so much that small ones would be pressed together."""
        costs = self._costs
        return max(costs) > WIDE * min(costs) > 0

    @property
    def ticks(self) -> list[float]:
        """Round costs around all marks, for a logarithmic axis."""
        low, high = min(self._costs), max(self._costs)
        tens = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        found = [tick * 10.0**ten for ten in tens for tick in TICKS]
        first = max((tick for tick in found if tick <= low), default=low)
        return [tick for tick in found if first <= tick <= TICKS[1] * high]

    @property
    def _costs(self) -> list[float]:
        return [mark.x for one in self.series for mark in one.marks]


def charts(table: Table) -> tuple[Chart, ...]:
    """Return score against size, and against latency or, where none was measured, MACs.

    Latencies are those of the place where most lines were timed: others are another clock's.
    """
    size = _chart(table, "Size, MiB", lambda line: _mean(line, lambda row: row.size_bytes / MIB))
    if not table.places:
        return size, _chart(
            table,
            "Mean GMACs per input",
            lambda line: _mean(line, lambda row: row.macs_mean / GIGA),
            lambda _, row: row.macs_mean / GIGA,
        )
    return size, _latency_chart(table, table.places[0])


def _latency_chart(table: Table, place: Place) -> Chart:
    """Return the chart of latency; of one teacher's share, which a busy machine spares, if so."""
    relative = table.one_teacher and all(
        place in line.shares for line in table.lines if place in line.latencies
    )

    def latency(line: Line) -> float | None:
        found = line.shares if relative else line.latencies
        return found[place].mean if place in found else None

    def other(trial: Trial, row: Row) -> float | None:
        return trial.share(row) if relative else row.median_ms

    kind = "as a share of the teacher's" if relative else "per input, ms"
    return _chart(table, f"Median latency {kind} ({place})", latency, other)


def _chart(table: Table, title: str, cost: Cost, other: OtherCost | None = None) -> Chart:
    series = []
    for system in dict.fromkeys(line.system for line in table.lines):
        own = [line for line in table.lines if line.system == system]
        marks = tuple(mark for line in own if (mark := _marked(line, cost)) is not None)
        others = _others(own, table, other) if other else ()
        if marks:
            series.append(Series(system, marks, others))
    everything = [mark for one in series for mark in one.marks]
    best = pareto_front([mark.y for mark in everything], [mark.x for mark in everything])
    return Chart(title, tuple(series), tuple(everything[place] for place in best))


def _marked(line: Line, cost: Cost) -> Mark | None:
    x = cost(line)
    if x is None:
        return None
    return Mark(line.number, x, line.score.mean, line.score.error, line.label)


def _others(lines: list[Line], table: Table, cost: OtherCost) -> tuple[tuple[float, float], ...]:
    """Return the fronts of length-adaptive models, timed where the chart's marks were."""
    rows = [
        (trial, row)
        for line in lines
        for trial in line.trials
        if not table.places or trial.place == table.places[0]
        for row in trial.front
    ]
    costs = [(cost(trial, row), row.score) for trial, row in rows]
    return tuple((x, y) for x, y in costs if x is not None and y is not None)


def _mean(line: Line, figure: Callable[[Row], float]) -> float:
    found = line.spread(figure)
    return found.mean if found else 0.0


def free_angles(points: Points) -> Points:
    """Return for each point, (n, 2), the direction in which its number covers least, (n,).

    Points are in 1/72 inch. One after the other takes, of eight directions, the one that is
    farthest from all other points and from the numbers that stand already.
    """
    angles = np.pi / 4 * np.array([1, 3, 7, 5, 0, 4, 2, 6])  # diagonals first: bars are upright
    ways = DISTANCE * np.stack([np.cos(angles), np.sin(angles)], axis=1)  # (8, 2)
    taken = [np.asarray(point, dtype=np.float64) for point in points]
    chosen = np.zeros(len(points))
    for number, point in enumerate(points):
        others = [spot for place, spot in enumerate(taken) if place != number] or [point]
        room = np.linalg.norm(point + ways[:, None] - np.stack(others), axis=2).min(axis=1)
        # Beyond two distances there is room enough: the first such direction is as good.
        best = int(np.minimum(room, 2 * DISTANCE).argmax())
        chosen[number] = angles[best]
        taken.append(point + ways[best])
    return chosen


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
            "color": style.color,
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
            color=style.color,
            zorder=5,
        )
