"""What a compressed model costs in quality, on the same test examples as the user's own model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from quala.metrics.interval import Bounds
from quala.results import FINE_TUNED, Row, predictions_file, with_speedups

if TYPE_CHECKING:
    from quala.data.taskdata import TaskData

PREDICTIONS = "predictions"


@dataclass(frozen=True)
class Compared:
    """A measured row; `lost` is what it loses against the user's own model, in points.

    `bounds` is its 95 % interval, paired where the examples' own scores are known.
    """

    row: Row
    lost: float | None = None
    bounds: Bounds | None = None

    @property
    def worst(self) -> float:
        """The loss that is not exceeded, at 95 % certainty."""
        return self.bounds[1] if self.bounds else math.inf


@dataclass(frozen=True)
class Outcome:
    """The user's own model, the points of the compressed one, and the one that was asked for."""

    own: Row
    points: tuple[Compared, ...]
    chosen: Compared
    said: tuple[str, ...]
    kept: bool
    """Whether the budget, or the loss, can be promised."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "own": _figures(Compared(self.own)),
            "front": [_figures(one) for one in self.points],
            "chosen": _figures(self.chosen),
            "kept": self.kept,
            "said": list(self.said),
        }


def _figures(one: Compared) -> dict[str, Any]:
    row = one.row
    return {
        "lengths": row.lengths and list(row.lengths),
        **({"layers": row.layers} if row.layers else {}),
        row.metric: row.score,
        "interval": row.interval,
        "examples": row.examples,
        "lost": one.lost,
        "lost_interval": one.bounds,
        "milliseconds": row.median_ms,
        "speedup": row.own_speedup,
        "bytes": row.size_bytes,
    }


def compared(rows: Sequence[Row], folder: Path, data: TaskData) -> list[Compared]:
    """Return the compressed model's rows, each beside the fine-tuned one's.

    `folder` is the output of `measure`.
    """
    rows = with_speedups(rows)
    own = own_row(rows)
    examples, task = data.test.examples, data.task
    full = task.sample_of(examples, _predictions(folder, own))
    found = []
    for row in rows:
        if row.model != rows[-1].model:
            continue
        sample = task.sample_of(examples, _predictions(folder, row))
        lost = None if row.score is None or own.score is None else own.score - row.score
        bounds = sample.loss(full) if sample and full else _apart(row, own)
        found.append(Compared(row, lost, bounds))
    return found


def own_row(rows: Sequence[Row]) -> Row:
    """Return the row of the fine-tuned model at full length."""
    return next(row for row in rows if row.model == FINE_TUNED)


def _predictions(folder: Path, row: Row) -> Mapping[str, str]:
    file = folder / PREDICTIONS / predictions_file(row.model, row.tokens)
    text = file.read_text(encoding="utf-8")
    return cast("Mapping[str, str]", json.loads(text))


def _apart(row: Row, own: Row) -> Bounds | None:
    """Return the interval of the difference of two scores as if they were of other examples."""
    if row.interval is None or own.interval is None or row.score is None or own.score is None:
        return None
    lost = own.score - row.score
    below = math.hypot(own.score - own.interval[0], row.interval[1] - row.score)
    above = math.hypot(own.interval[1] - own.score, row.score - row.interval[0])
    return lost - below, lost + above


def within_loss(own: Row, points: Sequence[Compared], max_loss: float) -> Outcome:
    """Return the outcome for a bound of the loss.

    The chosen point is that of `measure`, which knows the search slice only: the test examples
    say what it costs and decide nothing.
    """
    chosen = next((one for one in points if one.row.role == "chosen"), points[0])
    said = [chosen.row.note] if chosen.row.note else []
    kept = chosen.worst <= max_loss
    asked = f"`--max-loss {max_loss:g}`"
    if kept:
        said.append(f"{asked} holds: {_loss(chosen)}.")
        return Outcome(own, tuple(points), chosen, tuple(said), kept)
    examples = f"{own.examples or 0:,} test examples"
    if chosen.bounds and chosen.bounds[0] > max_loss:
        said.append(f"{asked} does not hold on the {examples}: {_loss(chosen)}.")
    else:
        said.append(f"The {examples} are too few to promise {asked}: {_loss(chosen)}.")
    best = min(points, key=lambda one: one.worst)
    if math.isfinite(best.worst):
        said.append(
            f"The smallest loss that they can promise is {_up(best.worst)} points, "
            f"{_at(best.row)}."
        )
    return Outcome(own, tuple(points), chosen, tuple(said), kept)


def within_budget(own: Row, points: Sequence[Compared], budget: float) -> Outcome:
    """Return the outcome for a budget in milliseconds: the best point that keeps it.

    Without one it is the fastest point.
    """
    able = [one for one in points if (one.row.median_ms or math.inf) <= budget]
    if able:
        chosen = max(able, key=lambda one: one.row.score or 0.0)
        said = f"`--budget-ms {budget:g}` is kept {_at(chosen.row)}: {_loss(chosen)}."
    else:
        chosen = min(points, key=lambda one: one.row.median_ms or math.inf)
        said = (
            f"`--budget-ms {budget:g}` cannot be kept here: the fastest point takes "
            f"{chosen.row.median_ms or 0:.2f} ms, {_at(chosen.row)}; {_loss(chosen)}."
        )
    return Outcome(own, tuple(points), chosen, (said,), bool(able))


def _at(row: Row) -> str:
    return "at full length" if row.lengths is None else f"at the lengths {row.tokens}"


def _up(value: float) -> str:
    """Return a bound with one decimal, never below it."""
    return f"{max(0.0, math.ceil(10 * value) / 10):.1f}"


def _loss(one: Compared) -> str:
    """Say what a point loses, with its interval."""
    if one.lost is None:
        return "its loss is not known"
    gained = one.lost < 0
    verb, beside = ("gains", "over") if gained else ("loses", "against")
    text = f"it {verb} {abs(one.lost):.2f} points {beside} your model"
    if one.bounds is None:
        return text
    low, high = one.bounds
    return f"{text} (95 % interval of the loss: {low:.1f} to {high:.1f})"
