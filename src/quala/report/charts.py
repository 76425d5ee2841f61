"""What the charts of a report show, before any plotting library is involved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from quala.metrics.pareto import pareto_front
from quala.results import GIGA, Point, Report, Row

Kind = Literal["candidates", "baseline", "float", "supernet", "integer", "front", "chosen"]


@dataclass(frozen=True, slots=True)
class Mark:
    """One point of a chart: cost, score, and what it stands for."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Series:
    """Points that are drawn alike."""

    kind: Kind
    label: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A scatter of score against one cost; `front` are the marks of it that no other beats."""

    cost: str
    series: tuple[Series, ...]

    @property
    def front(self) -> tuple[Mark, ...]:
        """Lengths found by one cost may be beaten by another, milliseconds for instance."""
        marks = [mark for one in self.series if one.kind == "front" for mark in one.marks]
        best = pareto_front([mark.y for mark in marks], [mark.x for mark in marks])
        return tuple(marks[number] for number in best)


def charts(report: Report) -> tuple[Chart, ...]:
    """Return score against MACs and, where it was measured, score against latency."""
    made = (
        Chart("Mean GMACs per input", _series(report, _row_gmacs, _point_gmacs)),
        Chart("Median latency per input, ms", _series(report, _row_latency, _point_latency)),
    )
    return tuple(chart for chart in made if chart.series)


def _series(
    report: Report,
    row_cost: Callable[[Row], float | None],
    point_cost: Callable[[Point], float | None],
) -> tuple[Series, ...]:
    full = [row for row in report.rows if row.role == "full"]
    groups: list[tuple[Kind, str, Sequence[Row]]] = [
        ("baseline", "baseline", [row for row in report.rows if row.role == "baseline"]),
        ("float", "full length, float", [row for row in full if not _is_integer(row)]),
        ("supernet", "shorter, float", [row for row in report.rows if row.role == "supernet"]),
        ("integer", "full length, integer", [row for row in full if _is_integer(row)]),
        ("front", "front", report.front),
        ("chosen", "chosen", [row for row in report.rows if row.role == "chosen"]),
    ]
    tried = [_point_mark(point, point_cost(point)) for point in report.candidates]
    series = [Series("candidates", "candidates, on the search slice", _present(tried))]
    for kind, label, rows in groups:
        marks = _present([_row_mark(row, row_cost(row)) for row in rows])
        series.append(Series(kind, label, tuple(sorted(marks, key=lambda mark: mark.x))))
    return tuple(one for one in series if one.marks)


def _row_mark(row: Row, cost: float | None) -> Mark | None:
    if cost is None or row.score is None:
        return None
    return Mark(cost, row.score, f"{row.model}, {row.precision}: {row.tokens}")


def _point_mark(point: Point, cost: float | None) -> Mark | None:
    return None if cost is None else Mark(cost, point.score, ", ".join(map(str, point.lengths)))


def _present(marks: Sequence[Mark | None]) -> tuple[Mark, ...]:
    return tuple(mark for mark in marks if mark is not None)


def _is_integer(row: Row) -> bool:
    return not row.precision.startswith("fp")


def _row_gmacs(row: Row) -> float | None:
    return row.macs_mean / GIGA


def _point_gmacs(point: Point) -> float | None:
    return point.macs / GIGA


def _row_latency(row: Row) -> float | None:
    return row.median_ms


def _point_latency(point: Point) -> float | None:
    return point.latency_ms
