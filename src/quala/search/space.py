"""The space of length configurations that a search explores, and its shape in Optuna."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from quala.errors import QualaError
from quala.lengths import MIN_TOKENS, LengthConfig

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True, slots=True)
class Space:
    """Non-increasing lengths of `layers` layers on an input of `sequence_length` tokens.

    Lengths lie on the grid `sequence_length - k * step`, never below `floor`. The cost of
    `lower` bounds the search from below (the smallest lengths of the grid without it), the cost
    of the full length from above.
    """

    layers: int
    sequence_length: int
    floor: int = MIN_TOKENS
    step: int = 1
    lower: LengthConfig | None = None

    def __post_init__(self) -> None:
        if self.layers < 1 or self.step < 1:
            raise QualaError(f"`layers` and `step` must be at least 1, got {self}.")
        if not MIN_TOKENS <= self.floor <= self.sequence_length:
            raise QualaError(
                f"`floor` must lie in [{MIN_TOKENS}, {self.sequence_length}], got {self.floor}."
            )
        if self.lower is not None and len(self.lower.lengths) != self.layers:
            raise QualaError(f"`lower` must have {self.layers} lengths, got `{self.lower}`.")

    @property
    def smallest(self) -> int:
        """Return the smallest length on the grid."""
        return self.sequence_length - (self.sequence_length - self.floor) // self.step * self.step

    @property
    def full(self) -> LengthConfig:
        """Return the gene that drops nothing (the published upper gene)."""
        return LengthConfig.full(layers=self.layers, sequence_length=self.sequence_length)

    @property
    def lowest(self) -> LengthConfig:
        """Return the cheapest gene to consider (the published lower gene)."""
        if self.lower is None:
            return self.repair([self.smallest] * self.layers)
        return self.repair(self.lower.lengths)

    def repair(self, lengths: Iterable[float]) -> LengthConfig:
        """Return the nearest lengths on the grid, made non-increasing from the first layer on."""
        repaired, previous = [], self.sequence_length
        for length in lengths:
            steps = int((self.sequence_length - length) / self.step + 0.5)
            previous = min(previous, max(self.smallest, self.sequence_length - steps * self.step))
            repaired.append(previous)
        return LengthConfig(tuple(repaired), self.sequence_length)

    def draw(self, rng: Random) -> LengthConfig:
        """Draw lengths by sorting uniform ones."""
        lengths = [rng.uniform(self.smallest, self.sequence_length) for _ in range(self.layers)]
        return self.repair(sorted(lengths, reverse=True))

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return one Optuna distribution per layer, `length_1` to `length_L`."""
        from optuna.distributions import IntDistribution

        return {
            f"length_{layer}": IntDistribution(
                low=self.smallest, high=self.sequence_length, step=self.step
            )
            for layer in range(1, self.layers + 1)
        }

    def to_params(self, lengths: LengthConfig) -> dict[str, int]:
        """Return the parameters of an Optuna trial."""
        return {f"length_{layer}": value for layer, value in enumerate(lengths.lengths, start=1)}

    def from_params(self, params: Mapping[str, Any]) -> LengthConfig | None:
        """Read a trial's parameters; None while the trial has not written all of them."""
        names = [f"length_{layer}" for layer in range(1, self.layers + 1)]
        if any(name not in params for name in names):
            return None
        return LengthConfig(tuple(int(params[name]) for name in names), self.sequence_length)
