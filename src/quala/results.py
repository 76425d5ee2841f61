"""Results of a run: measured rows, candidates of the search, and the report of both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from quala.errors import QualaError, unknown
from quala.metrics.pareto import hypervolume

Role = Literal["baseline", "full", "supernet", "front", "chosen"]

FINE_TUNED = "fine-tuned"
"""The model name of the teacher's row."""
SUPERNET = "supernet"
"""The model name of the float model that was quantized."""
REPORT = "report.json"
FORMAT = 1
GIGA = 1e9


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds per input."""

    median: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured model at one set of lengths, scored on the test set.

    `role`: `baseline` is the row that speed-ups refer to, `full` a model at full length,
    `supernet` the float model at lengths of the front, `front` a point of the front, and `chosen`
    the point of the front that the budget selected. `lengths` None means that no token is dropped;
    `tokens` is the text for it. `score` and `exact_match` are in percent. `macs_padded` is for an
    input padded to the full sequence, `macs_mean` the mean over the real inputs. `bits` are those
    of weights, embeddings and activations, such as `2-2-8`; `nonzero` counts the `parameters` that
    are not 0. Reports of older versions lack the last three.
    """

    model: str
    precision: str
    size_bytes: int
    tokens: str
    macs_padded: int
    macs_mean: float
    role: Role = "front"
    lengths: tuple[int, ...] | None = None
    score: float | None = None
    exact_match: float | None = None
    metric: str = "f1"
    latency_ms: Latency | None = None
    speedup: float | None = None
    bits: str | None = None
    parameters: int | None = None
    nonzero: int | None = None

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise unknown("row role", self.role, get_args(Role))

    @property
    def median_ms(self) -> float | None:
        """The median latency, None where none was measured."""
        return self.latency_ms.median if self.latency_ms else None

    @property
    def is_float(self) -> bool:
        """Whether the weights are floating-point numbers."""
        return self.precision.startswith("fp")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Row:
        """Read back what `asdict` wrote."""
        lengths, latency = values["lengths"], values["latency_ms"]
        typed = {
            "lengths": None if lengths is None else tuple(lengths),
            "latency_ms": None if latency is None else Latency(**latency),
        }
        return cls(**{**values, **typed})


@dataclass(frozen=True, slots=True)
class Point:
    """One candidate of the search: its score on the search slice, in percent, and its costs."""

    lengths: tuple[int, ...]
    score: float
    macs: float
    latency_ms: float | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Point:
        """Read back what `asdict` wrote."""
        return cls(**{**values, "lengths": tuple(values["lengths"])})


@dataclass(frozen=True, slots=True)
class Report:
    """The content of a report; `provenance` maps labels to texts."""

    rows: tuple[Row, ...]
    candidates: tuple[Point, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    title: str = "Accuracy against cost"

    def __post_init__(self) -> None:
        if not self.rows:
            raise QualaError("A report needs at least one measured row, got none.")
        metrics = {row.metric for row in self.rows}
        if len(metrics) > 1:
            raise QualaError(f"A report has one metric, got {', '.join(sorted(metrics))}.")

    @property
    def metric(self) -> str:
        """Name of the score, such as `f1`."""
        return self.rows[0].metric

    def having(self, *roles: Role) -> list[Row]:
        """Return the rows of some roles."""
        return [row for row in self.rows if row.role in roles]

    @property
    def full(self) -> Row | None:
        """The last model measured at full length: the model of the front."""
        return next(reversed(self.having("full")), None)

    @property
    def chosen(self) -> Row | None:
        """The point of the front that the budget selected."""
        return next(iter(self.having("chosen")), None)

    @property
    def supernet(self) -> tuple[Row, ...]:
        """The rows of the float model, full length first; none if nothing was quantized."""
        return tuple(row for row in self.rows if row.model == SUPERNET)

    @property
    def front(self) -> tuple[Row, ...]:
        """The measured front with the chosen point, by rising cost."""
        return tuple(sorted(self.having("front", "chosen"), key=lambda row: row.macs_mean))

    def metrics(self) -> dict[str, float]:
        """Return the figures that summarize the report, by metric name."""
        found = {"front_points": float(len(self.front)), "hypervolume": self._hypervolume()}
        for name, row in (("full", self.full), ("chosen", self.chosen)):
            if row is not None:
                found |= _figures(row, name)
        if self.full is not None and self.chosen is not None:
            found["macs_saved"] = self.full.macs_mean / self.chosen.macs_mean
        return found

    def _hypervolume(self) -> float:
        """Return the area, 0 to 1, that the front and the full length dominate.

        Costs are relative to the most expensive row, so that a point with score 100 at no cost
        has the area 1.
        """
        points = [
            (row.score, row.macs_mean)
            for row in (*self.front, self.full)
            if row is not None and row.score is not None
        ]
        highest = max(row.macs_mean for row in self.rows)
        return hypervolume(
            [score / 100 for score, _ in points],
            [cost / highest for _, cost in points],
            reference_score=0.0,
            reference_cost=1.0,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "format": FORMAT,
            "title": self.title,
            "metric": self.metric,
            "metrics": self.metrics(),
            "rows": [asdict(row) for row in self.rows],
            "candidates": [asdict(point) for point in self.candidates],
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Report:
        """Read back what `to_json` wrote. Raises QualaError for another format."""
        if values.get("format") != FORMAT:
            raise QualaError(
                f"The report has format {values.get('format')}, this version reads {FORMAT}."
            )
        return cls(
            rows=tuple(map(Row.from_json, values["rows"])),
            candidates=tuple(map(Point.from_json, values["candidates"])),
            provenance=values["provenance"],
            title=values["title"],
        )


def read_report(folder: Path) -> Report:
    """Read the report.json in `folder`. Raises QualaError when there is none or it is damaged."""
    file = folder / REPORT
    try:
        return Report.from_json(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise QualaError(f"`{file}` cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise QualaError(f"`{file}` is not a report of quala.") from error


def _figures(row: Row, name: str) -> dict[str, float]:
    figures = {
        f"gmacs_{name}": row.macs_mean / GIGA,
        f"bytes_{name}": float(row.size_bytes),
        f"{row.metric}_{name}": row.score,
        f"latency_ms_{name}": row.median_ms,
        f"speedup_{name}": row.speedup,
    }
    return {key: value for key, value in figures.items() if value is not None}


def with_speedups(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with their speed-up over the baseline, by median latency.

    Without a baseline the first row is used. Rows without a latency get no speed-up.
    """
    base = next((row for row in rows if row.role == "baseline"), rows[0] if rows else None)
    unit = base.median_ms if base else None
    return [
        replace(row, speedup=unit / row.median_ms if unit and row.median_ms else None)
        for row in rows
    ]
