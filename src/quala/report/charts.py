"""Charts of score against cost, as data: `report.figure` and `report.page` draw them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from quala.metrics.interval import interval_text, metric_name
from quala.metrics.pareto import pareto_front
from quala.results import GIGA, Point, Report, Row, says

INK, MUTED, GRID, BLUE = "#222222", "#6b7280", "#e5e7eb", "#0369a1"


@dataclass(frozen=True, slots=True)
class Style:
    """How marks look. `symbol` is plotly's name; `size` is in points, `pixels` is for pages.

    The two sizes differ by symbol because matplotlib and plotly measure symbols differently.
    """

    color: str
    symbol: str
    size: float
    pixels: float
    opacity: float = 1.0


@dataclass(frozen=True, slots=True)
class Mark:
    """One point of a chart.

    `text` is shown on hover, `label` beside the mark; `error` is half the height of its bar.
    """

    x: float
    y: float
    text: str
    error: float = 0.0
    label: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """Marks that are drawn alike; without a `name` they have no entry in the legend.

    A line goes through those that are `joined`.
    """

    key: str
    name: str
    style: Style
    marks: tuple[Mark, ...]
    joined: bool = False


@dataclass(frozen=True, slots=True)
class FrontLine:
    """How a front is drawn: with `steps`, everything to the right of and below it is dominated."""

    color: str
    name: str = ""
    steps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A scatter of score against one cost.

    `front` are the marks that no other dominates, by rising cost. `ticks` are the ticks of a
    logarithmic cost axis; without them the axis is linear. Figures leave out what is below
    `lowest`.
    """

    cost: str
    score: str
    series: tuple[Series, ...]
    front: tuple[Mark, ...]
    line: FrontLine
    ticks: tuple[float, ...] = ()
    lowest: float | None = None

    @property
    def labeled(self) -> list[tuple[Mark, Style]]:
        """The marks that have labels, which need room, and their styles."""
        return [(mark, one.style) for one in self.series for mark in one.marks if mark.label]


def front_marks(marks: Iterable[Mark]) -> tuple[Mark, ...]:
    """Return the marks that no other dominates, by rising cost."""
    found = list(marks)
    best = pareto_front([mark.y for mark in found], [mark.x for mark in found])
    return tuple(found[place] for place in best)


WIDE = 8.0
"""Costs that span more than this factor get a logarithmic axis. A choice by eye."""
TICKS = (1.0, 2.0, 5.0)


def log_ticks(costs: Sequence[float]) -> tuple[float, ...]:
    """Return round ticks around all costs, none where a linear axis shows them well."""
    low, high = min(costs, default=0.0), max(costs, default=0.0)
    if not high > WIDE * low > 0:
        return ()
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    ticks = [tick * 10.0**power for power in powers for tick in TICKS]
    first = max((tick for tick in ticks if tick <= low), default=low)
    return tuple(tick for tick in ticks if first <= tick <= TICKS[1] * high)


LABEL_DISTANCE = 11.0
"""From a mark to the middle of its label, in points: room for two digits of 8 points."""


def label_angles(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each of (n, 2) points the direction in which its label covers least, (n,).

    Coordinates are in 1/72 inch. Greedy: of eight directions, each label takes the one that is
    farthest from all other points and from the labels placed before.
    """
    angles = np.pi / 4 * np.array([1, 3, 7, 5, 0, 4, 2, 6])  # diagonals first: bars are upright
    ways = LABEL_DISTANCE * np.stack([np.cos(angles), np.sin(angles)], axis=1)  # (8, 2)
    taken = [np.asarray(point, dtype=np.float64) for point in points]
    chosen = np.zeros(len(points))
    for number, point in enumerate(points):
        others = [spot for place, spot in enumerate(taken) if place != number] or [point]
        room = np.linalg.norm(point + ways[:, None] - np.stack(others), axis=2).min(axis=1)
        # Beyond two distances there is room enough, and the first such direction is taken.
        best = int(np.minimum(room, 2 * LABEL_DISTANCE).argmax())
        chosen[number] = angles[best]
        taken.append(point + ways[best])
    return chosen


STYLES: Mapping[str, Style] = MappingProxyType(
    {
        "candidates": Style("#9ca3af", "circle", 3.5, 6, 0.45),
        "baseline": Style(INK, "diamond", 8, 12),
        "float": Style("#c2410c", "square", 8, 11),
        "supernet": Style("#c2410c", "square", 4.5, 6),
        "integer": Style("#7c3aed", "triangle-up", 9, 12),
        "front": Style(BLUE, "circle", 6, 9),
        "chosen": Style("#f59e0b", "star", 17, 17),
    }
)
"""Styles of the series of one run's report, from the lowest to the highest."""


def report_charts(report: Report) -> tuple[Chart, ...]:
    """Return score against MACs and, where it was measured, score against latency."""
    made = (
        _report_chart(
            report,
            "Mean GMACs per input",
            lambda row: row.macs_mean / GIGA,
            lambda point: point.macs / GIGA,
        ),
        _report_chart(
            report,
            "Median latency per input, ms",
            lambda row: row.median_ms,
            lambda point: point.latency_ms,
        ),
    )
    return tuple(chart for chart in made if chart.series)


def _report_chart(
    report: Report,
    title: str,
    row_cost: Callable[[Row], float | None],
    point_cost: Callable[[Point], float | None],
) -> Chart:
    full = report.having("full")
    groups: dict[str, tuple[str, Iterable[Row]]] = {
        "baseline": ("baseline", report.having("baseline")),
        "float": ("full length, float", [row for row in full if row.is_float]),
        "supernet": ("shorter, float", report.having("supernet")),
        "integer": ("full length, integer", [row for row in full if not row.is_float]),
        "front": ("front", report.front),
        "chosen": ("chosen", report.having("chosen")),
    }
    tried = tuple(
        Mark(cost, point.score, says(", ".join(map(str, point.lengths)), point.layers))
        for point in report.candidates
        if (cost := point_cost(point)) is not None
    )
    series = [Series("candidates", "candidates, on the search slice", STYLES["candidates"], tried)]
    for key, (name, rows) in groups.items():
        marks = [
            Mark(cost, row.score, _hover(row))
            for row in rows
            if (cost := row_cost(row)) is not None and row.score is not None
        ]
        marks.sort(key=lambda mark: mark.x)
        series.append(Series(key, name, STYLES[key], tuple(marks)))
    shown = tuple(one for one in series if one.marks)
    return Chart(
        cost=title,
        score=metric_name(report.metric),
        series=shown,
        # Lengths found by one cost may be dominated by another, by milliseconds for instance.
        front=front_marks(mark for one in shown if one.key == "front" for mark in one.marks),
        line=FrontLine(STYLES["front"].color),
        lowest=_lowest(shown),
    )


def _hover(row: Row) -> str:
    shown = f"; 95 %: {interval_text(row.interval)}" if row.interval else ""
    return f"{row.model}, {row.precision}: {says(row.tokens_only, row.layers)}{shown}"


def _lowest(series: Iterable[Series]) -> float | None:
    """Return the lowest score to show: with all candidates, the front could look flat."""
    tried = [mark.y for one in series for mark in one.marks]
    measured = [mark.y for one in series if one.key != "candidates" for mark in one.marks]
    if not measured:
        return min(tried, default=None)
    span = max(max(measured) - min(measured), 1.0)
    return max(min(tried), min(measured) - span) - 0.08 * span
