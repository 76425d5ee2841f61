"""How a system looks in every chart of a comparison: one colour and one marker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quala.report.compare.trial import TEACHER

INK, FRONT = "#222222", "#9ca3af"
_COLOURS = (
    "#0369a1", "#c2410c", "#7c3aed", "#15803d", "#db2777", "#ca8a04", "#0891b2", "#78350f",
    "#84cc16",
)  # fmt: skip
_MARKERS = (
    ("o", "circle"), ("s", "square"), ("^", "triangle-up"), ("v", "triangle-down"),
    ("P", "cross"), ("X", "x"), ("<", "triangle-left"), (">", "triangle-right"), ("h", "hexagon"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Style:
    """A colour, and a marker in the words of matplotlib and of plotly."""

    colour: str
    marker: str
    symbol: str


def styles(systems: Sequence[str]) -> Mapping[str, Style]:
    """Return the style of each system; with more than nine, colours and markers part ways."""
    found = {TEACHER: Style(INK, "D", "diamond")}
    for number, system in enumerate(name for name in systems if name != TEACHER):
        turn, place = divmod(number, len(_COLOURS))
        marker, symbol = _MARKERS[(place + turn) % len(_MARKERS)]
        found[system] = Style(_COLOURS[place], marker, symbol)
    return found
