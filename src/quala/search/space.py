"""The space of length configurations that a search explores, and its shape in Optuna."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from quala.errors import QualaError
from quala.lengths import MIN_TOKENS, LengthConfig, constant_drop

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
    def names(self) -> list[str]:
        """Return the parameters of an Optuna trial, `length_1` to `length_L`."""
        return [f"length_{layer}" for layer in range(1, self.layers + 1)]

    @property
    def smallest(self) -> int:
        """Return the smallest length on the grid."""
        return self.sequence_length - (self.sequence_length - self.floor) // self.step * self.step

    @property
    def full(self) -> LengthConfig:
        """Return the lengths that drop nothing (the upper gene of LAT)."""
        return LengthConfig.full(layers=self.layers, sequence_length=self.sequence_length)

    @property
    def lowest(self) -> LengthConfig:
        """Return the cheapest lengths to consider (the lower gene of LAT)."""
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
        """Return the Optuna distribution of each parameter."""
        from optuna.distributions import IntDistribution

        grid = IntDistribution(low=self.smallest, high=self.sequence_length, step=self.step)
        return dict.fromkeys(self.names, grid)

    def to_params(self, lengths: LengthConfig) -> dict[str, int]:
        """Return the parameters of an Optuna trial."""
        return dict(zip(self.names, lengths.lengths, strict=True))

    def from_params(self, params: Mapping[str, Any]) -> LengthConfig | None:
        """Read a trial's parameters; None while the trial has not written all of them."""
        if any(name not in params for name in self.names):
            return None
        return LengthConfig(tuple(int(params[name]) for name in self.names), self.sequence_length)


_BISECTIONS = 60
"""More than a float64 between 0 and 1 has bits."""


def constant_rates(space: Space, size: int) -> list[LengthConfig]:
    """Return `size` lengths with one drop rate each, evenly spaced in mean relative length.

    They lie strictly between the space's cheapest lengths and the full length.
    """
    lowest = _mean_share(space.lowest)
    targets = (lowest + (1 - lowest) * (i + 1) / (size + 1) for i in range(size))
    return [_constant_rate(space, target) for target in targets]


def _mean_share(config: LengthConfig) -> float:
    return sum(config.lengths) / (len(config.lengths) * config.sequence_length)


def _constant_rate(space: Space, target: float) -> LengthConfig:
    low, high = 0.0, 1.0
    found = space.full
    for _ in range(_BISECTIONS):
        rate = (low + high) / 2
        drop = constant_drop(rate, layers=space.layers, sequence_length=space.sequence_length)
        found = space.repair(drop.lengths)
        low, high = (rate, high) if _mean_share(found) > target else (low, rate)
    return found


def mutate(parent: LengthConfig, rng: Random, *, space: Space, probability: float) -> LengthConfig:
    """Redraw each layer with `probability`, between its neighbors' lengths.

    A redrawn length is uniform on [the parent's next length, the child's previous length].
    """
    following = (*parent.lengths[1:], space.smallest)
    lengths, previous = [], space.sequence_length
    for length, lowest in zip(parent.lengths, following):
        if rng.random() < probability:
            length = rng.randint(min(lowest, previous), previous)
        previous = min(length, previous)
        lengths.append(previous)
    return space.repair(lengths)


def average(first: LengthConfig, second: LengthConfig, *, space: Space) -> LengthConfig:
    """Return the element-wise mean of two parents, halves rounded up."""
    pairs = zip(first.lengths, second.lengths)
    return space.repair([(a + b + 1) // 2 for a, b in pairs])


def splice(
    first: LengthConfig, second: LengthConfig, rng: Random, *, space: Space
) -> LengthConfig:
    """Join the first layers of one parent to the last layers of another."""
    cut = rng.randint(0, space.layers)
    return space.repair((*first.lengths[:cut], *second.lengths[cut:]))


def pick(first: LengthConfig, second: LengthConfig, rng: Random, *, space: Space) -> LengthConfig:
    """Take at every layer the smaller length, or at every layer the larger one."""
    choose = min if rng.random() < 0.5 else max
    return space.repair([choose(pair) for pair in zip(first.lengths, second.lengths)])


def jitter(parent: LengthConfig, rng: Random, *, space: Space) -> LengthConfig:
    """Move one to three layers a little; the width of the move is log-uniform."""
    widest = max(space.step, space.sequence_length // 4)
    lengths = [float(length) for length in parent.lengths]
    for layer in rng.sample(range(space.layers), k=min(space.layers, rng.randint(1, 3))):
        width = space.step * (widest / space.step) ** rng.random()
        lengths[layer] += rng.choice((-1, 1)) * max(width, space.step)
    return space.repair(_carried(lengths, rng))


def _carried(lengths: list[float], rng: Random) -> list[float]:
    """Raise, half of the time, the layers before one that grew past them."""
    if rng.random() < 0.5:
        return lengths
    raised, highest = [], 0.0
    for length in reversed(lengths):
        highest = max(highest, length)
        raised.append(highest)
    return raised[::-1]


def stop_dropping(parent: LengthConfig, rng: Random, *, space: Space) -> LengthConfig:
    """Make one layer, or all layers up to it, drop nothing."""
    layer = rng.randrange(space.layers)
    before = (space.sequence_length, *parent.lengths)
    if rng.random() < 0.5:
        kept = (space.sequence_length,) * (layer + 1)
    else:
        kept = (*parent.lengths[:layer], before[layer])
    return space.repair((*kept, *parent.lengths[layer + 1 :]))


def set_suffix(parent: LengthConfig, rng: Random, *, space: Space) -> LengthConfig:
    """Scale, or set to one length, all layers from one layer on."""
    layer = rng.randrange(space.layers)
    head, tail = parent.lengths[:layer], parent.lengths[layer:]
    top = head[-1] if head else space.sequence_length
    if rng.random() < 0.5:
        length = rng.uniform(space.smallest, top)
        return space.repair((*head, *[length] * len(tail)))
    factor = 2 ** rng.uniform(-1, 1)
    return space.repair((*head, *[length * factor for length in tail]))
