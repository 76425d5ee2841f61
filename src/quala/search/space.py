"""The space of lengths and structures that a search explores, and its shape in Optuna."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from quala.errors import QualaError
from quala.lengths import MIN_TOKENS, Layers, LengthConfig, Units, constant_drop, layers_name

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


STRUCTURE, ALL = "structure", "all"
"""The parameter of a trial that names the sub-network, and its value for all of the model."""


@dataclass(frozen=True, slots=True)
class Space:
    """Non-increasing lengths of `layers` layers on an input of `sequence_length` tokens.

    Lengths lie on the grid `sequence_length - k * step`, never below `floor`. The cost of
    `lower` bounds the search from below (the smallest lengths of the grid without it), the cost
    of the full length from above. `structures` are the sub-networks of an elastic model, besides
    all of it and the cheapest last.
    """

    layers: int
    sequence_length: int
    floor: int = MIN_TOKENS
    step: int = 1
    lower: LengthConfig | None = None
    structures: tuple[Layers, ...] = ()
    units: tuple[Units, ...] = ()
    """Of the whole model, where there are structures."""

    def __post_init__(self) -> None:
        if self.layers < 1 or self.step < 1:
            raise QualaError(f"`layers` and `step` must be at least 1, got {self}.")
        if not MIN_TOKENS <= self.floor <= self.sequence_length:
            raise QualaError(
                f"`floor` must lie in [{MIN_TOKENS}, {self.sequence_length}], got {self.floor}."
            )
        if self.lower is not None and len(self.lower.lengths) != self.layers:
            raise QualaError(f"`lower` must have {self.layers} lengths, got `{self.lower}`.")
        if self.structures and len(self.units) != self.layers:
            raise QualaError(f"`units` must be those of {self.layers} layers, got {self.units}.")

    @property
    def names(self) -> list[str]:
        """Return the lengths among the parameters of an Optuna trial, `length_1` to `length_L`."""
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
        return self.shortest.of(self.structures[-1] if self.structures else ())

    @property
    def shortest(self) -> LengthConfig:
        """Return the smallest lengths of the whole model to consider."""
        return self.repair(self.lower.lengths if self.lower else [self.smallest] * self.layers)

    def repair(self, lengths: Iterable[float], layers: Layers = ()) -> LengthConfig:
        """Return the nearest lengths on the grid, made non-increasing from the first layer on."""
        repaired, previous = [], self.sequence_length
        for length in lengths:
            steps = int((self.sequence_length - length) / self.step + 0.5)
            previous = min(previous, max(self.smallest, self.sequence_length - steps * self.step))
            repaired.append(previous)
        return LengthConfig(tuple(repaired), self.sequence_length).of(layers)

    def draw(self, rng: Random) -> LengthConfig:
        """Draw lengths by sorting uniform ones."""
        lengths = [rng.uniform(self.smallest, self.sequence_length) for _ in range(self.layers)]
        layers = rng.choice(((), *self.structures)) if self.structures else ()
        return self.repair(sorted(lengths, reverse=True), layers)

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the Optuna distribution of each parameter."""
        from optuna.distributions import CategoricalDistribution, IntDistribution

        grid = IntDistribution(low=self.smallest, high=self.sequence_length, step=self.step)
        found: dict[str, BaseDistribution] = dict.fromkeys(self.names, grid)
        if self.structures:
            found[STRUCTURE] = CategoricalDistribution(list(self._named))
        return found

    def to_params(self, lengths: LengthConfig) -> dict[str, Any]:
        """Return the parameters of an Optuna trial."""
        found: dict[str, Any] = dict(zip(self.names, lengths.lengths, strict=True))
        if self.structures:
            found[STRUCTURE] = layers_name(lengths.layers) if lengths.layers else ALL
        return found

    def from_params(self, params: Mapping[str, Any]) -> LengthConfig | None:
        """Read a trial's parameters; None while the trial has not written all of them."""
        wanted = [*self.names, *([STRUCTURE] if self.structures else [])]
        if any(name not in params for name in wanted):
            return None
        lengths = tuple(int(params[name]) for name in self.names)
        layers = self._named[params[STRUCTURE]] if self.structures else ()
        return LengthConfig(lengths, self.sequence_length).of(layers)

    @property
    def _named(self) -> dict[str, Layers]:
        return {ALL: (), **{layers_name(layers): layers for layers in self.structures}}

    def shares(self, layers: Layers) -> list[float]:
        """Return for each layer the share of its units that run, 1 where all do."""
        if not layers:
            return [1.0] * self.layers
        return [
            (units.heads / most.heads + units.neurons / most.neurons) / 2 if units else 0.0
            for units, most in zip(layers, self.units, strict=True)
        ]


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
    return space.repair(lengths, parent.layers)


def average(first: LengthConfig, second: LengthConfig, *, space: Space) -> LengthConfig:
    """Return the element-wise mean of two parents, halves rounded up."""
    pairs = zip(first.lengths, second.lengths)
    return space.repair([(a + b + 1) // 2 for a, b in pairs], first.layers)


def splice(
    first: LengthConfig, second: LengthConfig, rng: Random, *, space: Space
) -> LengthConfig:
    """Join the first layers of one parent to the last layers of another."""
    cut = rng.randint(0, space.layers)
    return space.repair((*first.lengths[:cut], *second.lengths[cut:]), second.layers)


def pick(first: LengthConfig, second: LengthConfig, rng: Random, *, space: Space) -> LengthConfig:
    """Take at every layer the smaller length, or at every layer the larger one."""
    choose = min if rng.random() < 0.5 else max
    return space.repair(
        [choose(pair) for pair in zip(first.lengths, second.lengths)], first.layers
    )


def jitter(parent: LengthConfig, rng: Random, *, space: Space) -> LengthConfig:
    """Move one to three layers a little; the width of the move is log-uniform."""
    widest = max(space.step, space.sequence_length // 4)
    lengths = [float(length) for length in parent.lengths]
    for layer in rng.sample(range(space.layers), k=min(space.layers, rng.randint(1, 3))):
        width = space.step * (widest / space.step) ** rng.random()
        lengths[layer] += rng.choice((-1, 1)) * max(width, space.step)
    return space.repair(_carried(lengths, rng), parent.layers)


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
    return space.repair((*kept, *parent.lengths[layer + 1 :]), parent.layers)


def set_suffix(parent: LengthConfig, rng: Random, *, space: Space) -> LengthConfig:
    """Scale, or set to one length, all layers from one layer on."""
    layer = rng.randrange(space.layers)
    head, tail = parent.lengths[:layer], parent.lengths[layer:]
    top = head[-1] if head else space.sequence_length
    if rng.random() < 0.5:
        length = rng.uniform(space.smallest, top)
        return space.repair((*head, *[length] * len(tail)), parent.layers)
    factor = 2 ** rng.uniform(-1, 1)
    return space.repair((*head, *[length * factor for length in tail]), parent.layers)


def restructure(parent: LengthConfig, rng: Random, *, space: Space) -> LengthConfig:
    """Give, a third of the time, the same lengths to another structure of the space."""
    if not space.structures or rng.random() >= 1 / 3:
        return parent
    return space.repair(parent.lengths, rng.choice(((), *space.structures)))
