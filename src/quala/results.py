"""Results of a run: measured rows, candidates of the search, and the report of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

from quala.errors import QualaError, unknown
from quala.lengths import layers_text
from quala.metrics.interval import Bounds
from quala.metrics.pareto import hypervolume
from quala.runtime.hardware import Conditions
from quala.stored import read_object, typed

Role = Literal["baseline", "full", "supernet", "front", "chosen"]

FINE_TUNED = "fine-tuned"
"""The model name of the teacher's row."""
SUPERNET = "supernet"
"""The model name of the float model that was quantized."""
PARTS = ("has_answer_f1", "no_answer_f1")
"""Scores of parts of the questions, which reports have for SQuAD 2.0."""
REPORT = "report.json"
FORMAT = 1
GIGA = 1e9


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds per input; older versions did not record the machine's conditions."""

    median: float
    p90: float
    p99: float
    conditions: Conditions | None = None

    @property
    def busy(self) -> bool:
        """Whether other programs disturbed the timing."""
        return self.conditions is not None and self.conditions.busy


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured model at one set of lengths, scored on the test set.

    `role`: `baseline` is the row that speed-ups refer to, `full` a model at full length,
    `supernet` the float model at lengths of the front, `front` a point of the front, and `chosen`
    the point of the front that the budget selected. `lengths` None means that no token is dropped
    (a `chosen` row then is the full length's too); `layers` is the `layers_name` of a sub-network,
    empty for all units of all layers. `tokens` is the text for both, `lengths@layers`. `score` and
    `exact_match` are in percent. `macs_padded` is for an input padded to the full sequence,
    `macs_mean` the mean over the real inputs. `bits` are those of weights, embeddings and
    activations, such as `2-2-8`; `nonzero` counts the `parameters` that are not 0. Scores are of
    `examples` test examples; `interval` and `exact_match_interval` are their 95 % intervals,
    `loss_interval` that of what the row loses against the same model's full length. `speedup` is
    over the baseline, `own_speedup` over the user's float model. `note` is a sentence about the
    choice. `has_answer_f1` and `no_answer_f1` are of the questions with and without an answer, for
    models that may give none (SQuAD 2.0). `active` are the `parameters` that a token passes, where
    it passes one of several experts. `size_bytes` and `parameters` of a sub-network are what it
    has by itself; a file of the whole model serves all of them. Reports of older versions lack
    what is after `speedup`.
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
    examples: int | None = None
    interval: Bounds | None = None
    exact_match_interval: Bounds | None = None
    loss_interval: Bounds | None = None
    own_speedup: float | None = None
    note: str | None = None
    has_answer_f1: float | None = None
    no_answer_f1: float | None = None
    active: int | None = None
    layers: str = ""

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise unknown("row role", self.role, get_args(Role))

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain values; `PARTS`, `active` and `layers` where there are any."""
        facts = asdict(self)
        absent = [name for name in (*PARTS, "active") if facts[name] is None]
        absent += ["layers"] * (not self.layers)
        return {name: value for name, value in facts.items() if name not in absent}

    @property
    def tokens_only(self) -> str:
        """The text of the lengths, without the layers."""
        return self.tokens.partition("@")[0]

    @property
    def median_ms(self) -> float | None:
        """The median latency, None where none was measured."""
        return self.latency_ms.median if self.latency_ms else None

    @property
    def is_float(self) -> bool:
        """Whether the weights are floating-point numbers."""
        return self.precision.startswith("fp")


@dataclass(frozen=True, slots=True)
class Point:
    """One candidate of the search: its score on the search slice, in percent, and its costs."""

    lengths: tuple[int, ...]
    score: float
    macs: float
    latency_ms: float | None = None
    layers: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the candidate as plain values, layers where there are any."""
        return {name: one for name, one in asdict(self).items() if one or name != "layers"}


@dataclass(frozen=True, slots=True)
class Report:
    """The content of a report; `provenance` maps labels to texts.

    `data` describes the data, where it is known: their `title`, the `files` and `slices` that were
    read, the `labels` in them, what was `left_out`, and `notes`; `details` are by row, the other
    metrics and the scores of each class.
    """

    rows: tuple[Row, ...]
    candidates: tuple[Point, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    title: str = "Accuracy against cost"
    data: Mapping[str, Any] = field(default_factory=dict)

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
        found = [one for one in self.having("full", "chosen") if one.lengths is None]
        return next(reversed(found or self.having("full")), None)

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
            "rows": [row.to_json() for row in self.rows],
            "candidates": [point.to_json() for point in self.candidates],
            "provenance": dict(self.provenance),
            "data": dict(self.data),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Report:
        """Read back what `to_json` wrote. Raises QualaError for another format."""
        if values.get("format") != FORMAT:
            raise QualaError(
                f"The report has format {values.get('format')}, this version reads {FORMAT}."
            )
        found: Report = typed(cls, values)
        return replace(found, rows=tuple(with_speedups(found.rows)))


def says(tokens: str, layers: str) -> str:
    """Return what runs, as text: the tokens per layer, and the units where not all do."""
    return f"{tokens}, heads x neurons {layers_text(layers)}" if layers else tokens


MOST_CHARACTERS = 200
"""Of the name of a file; file systems take 255 bytes."""


def predictions_file(model: str, tokens: str) -> str:
    """Return the name of the file of a row's predictions."""
    name = f"{model} {tokens}".replace(" ", "_").replace(",", "-")
    if len(name) > MOST_CHARACTERS:  # the units of many layers
        name = f"{name[: MOST_CHARACTERS // 2]}-{sha256(name.encode()).hexdigest()[:16]}"
    return f"{name}.json"


def read_report(folder: Path) -> Report:
    """Read the report.json in `folder`. Raises QualaError when there is none or it is damaged."""
    file = folder / REPORT
    try:
        return Report.from_json(read_object(file))
    except QualaError as error:
        raise QualaError(f"`{file}` is not a report of quala: {error}") from error


def _figures(row: Row, name: str) -> dict[str, float]:
    figures = {
        f"gmacs_{name}": row.macs_mean / GIGA,
        f"bytes_{name}": float(row.size_bytes),
        f"{row.metric}_{name}": row.score,
        f"latency_ms_{name}": row.median_ms,
        f"speedup_{name}": row.speedup,
    }
    return {key: value for key, value in figures.items() if value is not None}


def float_model(rows: Iterable[Row]) -> Row | None:
    """Return the row of the user's float model: the first scored one at full length."""
    found = (row for row in rows if row.is_float and row.lengths is None)
    return next((row for row in found if row.score is not None), None)


def speedup_base(rows: Sequence[Row]) -> Row | None:
    """Return the row that speed-ups refer to: the baseline, without one the first row."""
    return next((row for row in rows if row.role == "baseline"), rows[0] if rows else None)


def with_speedups(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with their speed-ups, by median latency; rows without a latency get none."""

    def over(base: Row | None, row: Row) -> float | None:
        unit = base.median_ms if base else None
        return unit / row.median_ms if unit and row.median_ms else None

    base, own = speedup_base(rows), float_model(rows)
    return [replace(row, speedup=over(base, row), own_speedup=over(own, row)) for row in rows]
