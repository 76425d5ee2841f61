"""What a search found: every candidate, the front, and how the front grew."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from quala.lengths import LengthConfig
from quala.metrics.pareto import hypervolume, pareto_front


@dataclass(frozen=True, slots=True)
class Candidate:
    """An evaluated gene; `examples` is the number of examples that it was scored on."""

    lengths: LengthConfig
    cost: float
    score: float
    generation: int
    origin: str
    examples: int
    stopped_early: bool = False
    feasible: bool = True
    gmacs: float | None = None
    """Beside a cost in milliseconds."""
    error: float | None = None
    """The standard error of the score's difference to the full length's, on the same examples;
    None where the score is no mean over examples, or the full length was not scored."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """All candidates in their order; `cheapest` and `dearest` are the ends of the cost range.

    `unit` is what costs are counted in, `gmacs` or `ms`.
    """

    candidates: tuple[Candidate, ...]
    cheapest: float
    dearest: float
    unit: str = "gmacs"

    @property
    def full(self) -> Candidate | None:
        """Return the gene that drops nothing, where it was scored."""
        return next((one for one in self.candidates if not any(one.lengths.drops)), None)

    @property
    def front(self) -> tuple[Candidate, ...]:
        """Return the non-dominated feasible candidates, cheapest first."""
        return _front(self.candidates)

    @property
    def hypervolume(self) -> float:
        """Return the best score that a budget buys, averaged over the range of costs."""
        return self._volume(self.candidates)

    @property
    def history(self) -> tuple[float, ...]:
        """Return the hypervolume after each evaluation."""
        counts = range(1, len(self.candidates) + 1)
        return tuple(self._volume(self.candidates[:count]) for count in counts)

    def _volume(self, candidates: Sequence[Candidate]) -> float:
        front = _front(candidates)
        area = hypervolume(
            [point.score for point in front],
            [point.cost for point in front],
            reference_score=0.0,
            reference_cost=self.dearest,
        )
        return area / (self.dearest - self.cheapest) if self.dearest > self.cheapest else 0.0

    def to_json(self) -> str:
        """Return the JSON form, lengths as lists."""
        return json.dumps(
            {
                "unit": self.unit,
                "cheapest": self.cheapest,
                "dearest": self.dearest,
                "hypervolume": self.hypervolume,
                "history": self.history,
                "front": [asdict(point) for point in self.front],
                "candidates": [asdict(candidate) for candidate in self.candidates],
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> SearchResult:
        """Read what `to_json` wrote; front, hypervolume and history are computed again."""
        fields = json.loads(text)
        candidates = tuple(_candidate(entry) for entry in fields["candidates"])
        unit = fields.get("unit", "gmacs")
        return cls(candidates, cheapest=fields["cheapest"], dearest=fields["dearest"], unit=unit)


def _front(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    able = [point for point in candidates if point.feasible and not point.stopped_early]
    if not able:
        return ()
    order = pareto_front([point.score for point in able], [point.cost for point in able])
    return tuple(able[int(index)] for index in order)


def _candidate(entry: dict[str, Any]) -> Candidate:
    lengths = LengthConfig(tuple(entry["lengths"]["lengths"]), entry["lengths"]["sequence_length"])
    return Candidate(**{**entry, "lengths": lengths})
