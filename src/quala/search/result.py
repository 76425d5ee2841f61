"""The result of a search: all candidates, the front, how the front grew, and the choice."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Self

from quala.errors import QualaError
from quala.lengths import Layers, LengthConfig, layers_name
from quala.metrics.pareto import hypervolume, pareto_front
from quala.stored import read_stored, typed

if TYPE_CHECKING:
    from quala.data.spec import DataSpec


log = logging.getLogger(__name__)
RESULT = "search.json"


@dataclass(frozen=True, slots=True)
class SearchCandidate:
    """Evaluated lengths; `examples` is the number of examples that they were scored on."""

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

    `unit` is that of the costs, `gmacs` or `ms`.
    """

    candidates: tuple[SearchCandidate, ...]
    cheapest: float
    dearest: float
    unit: str = "gmacs"

    @property
    def full(self) -> SearchCandidate | None:
        """Return the candidate that drops nothing, where it was scored."""
        return next((one for one in self.candidates if one.lengths.is_full), None)

    def fitting(
        self,
        *,
        sequence_length: int,
        layers: int | None = None,
        structures: Sequence[Layers] | None = None,
    ) -> Self:
        """Return the result itself; raise QualaError where it is of other inputs or models."""
        found = self.candidates[0].lengths
        there, here = len(found.lengths), layers or len(found.lengths)
        if (found.sequence_length, there) != (sequence_length, here):
            raise QualaError(
                f"The search was made for layers={there}, data.max_length={found.sequence_length},"
                f" got {here} and {sequence_length}: search again, or give a search that fits."
            )
        tried = dict.fromkeys(one.lengths.layers for one in self.candidates)
        for part in tried:
            if part and structures is not None and part not in structures:
                raise QualaError(
                    f"The search has points of the sub-network `{layers_name(part)}`, which the "
                    "model was not trained for: search again, or give a search that fits."
                )
        return self

    @property
    def front(self) -> tuple[SearchCandidate, ...]:
        """Return the non-dominated feasible candidates, cheapest first."""
        return _front(self.candidates)

    @property
    def hypervolume(self) -> float:
        """Return the best score within a budget, averaged over the range of costs."""
        return self._volume(self.candidates)

    @property
    def history(self) -> tuple[float, ...]:
        """Return the hypervolume after each evaluation."""
        counts = range(1, len(self.candidates) + 1)
        return tuple(self._volume(self.candidates[:count]) for count in counts)

    def _volume(self, candidates: Sequence[SearchCandidate]) -> float:
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
                "front": [_plain(point) for point in self.front],
                "candidates": [_plain(candidate) for candidate in self.candidates],
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> SearchResult:
        """Read what `to_json` wrote; front, hypervolume and history are computed again."""
        found: SearchResult = typed(cls, json.loads(text))
        return found


def _plain(point: SearchCandidate) -> dict[str, Any]:
    """Return a candidate as plain values; layers are left out where all of them run whole."""
    facts = asdict(point)
    if not point.lengths.layers:
        del facts["lengths"]["layers"]
    return facts


def read_result(folder: Path) -> SearchResult:
    """Read what a search stage left. Raises QualaError where there is none, or it is damaged."""
    try:
        found: SearchResult = read_stored(SearchResult, folder / RESULT)
    except QualaError as error:
        raise QualaError(f"`{folder}` holds no result of a search ({RESULT}): {error}") from error
    if not found.candidates:
        raise QualaError(f"The search in `{folder}` evaluated nothing.")
    return found


def check_given(folder: Path, data: DataSpec) -> None:
    """Raise QualaError where the result of a search is for another sequence length."""
    read_result(folder).fitting(sequence_length=data.max_length)


def _front(candidates: Sequence[SearchCandidate]) -> tuple[SearchCandidate, ...]:
    able = [point for point in candidates if point.feasible and not point.stopped_early]
    if not able:
        return ()
    order = pareto_front([point.score for point in able], [point.cost for point in able])
    return tuple(able[int(index)] for index in order)


def choose(found: SearchResult, *, max_loss: float, certainty: float) -> SearchCandidate:
    """Return the cheapest point of the front that loses no more than `max_loss`, with certainty.

    The loss is against the full length, on the search slice. The loss plus z standard errors
    must stay within the bound, where z is the normal quantile of `certainty` (0.5: the loss as
    seen), because the cheapest of many noisy scores is mostly a lucky one. Without a standard
    error, the score is used as it is. Where no point qualifies, the result is the full length,
    or the best score where the full length was not scored or is not feasible. This is the rule
    of one standard error (Breiman et al. 1984, Classification and Regression Trees, 3.4.3), with
    the errors of differences on the same examples. Raises QualaError for an empty front.
    """
    front = found.front
    if not front:
        raise QualaError("The front is empty: there is no point to choose from.")
    z = NormalDist().inv_cdf(certainty)
    best = max(front, key=lambda point: point.score)
    reference = (found.full or best).score
    rule = f"at most {max_loss:g} of 100 points lost on the search slice, certainty {certainty:g}"
    for point in front:  # cheapest first
        if reference - point.score + z * (point.error or 0.0) <= max_loss:
            log.info("Chosen: %s, the cheapest with %s.", point.lengths, rule)
            return point
    log.info("No point is surely within the bound (%s).", rule)
    return found.full if found.full and found.full.feasible else best
