"""What of a model runs: the tokens that each layer keeps, and the sizes of its layers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from quala.errors import QualaError, quoted
from quala.ranges import ranged

MIN_TOKENS = 2
"""The first token, which classification reads, and one more."""
FULL = "full"
"""The name of lengths that drop nothing."""


@dataclass(frozen=True, slots=True, order=True)
class Units:
    """The attention heads and feed-forward neurons of a layer that run, the first of each."""

    heads: int = ranged(at_least=1)
    neurons: int = ranged(at_least=1)

    def __str__(self) -> str:
        return f"{self.heads}x{self.neurons}"


Layers = tuple[Units | None, ...]
"""The units of each layer, None for a layer that is left out; empty: all of all layers."""


@dataclass(frozen=True, slots=True)
class LengthConfig:
    """Tokens kept by each layer, on the scale of an input of `sequence_length` tokens.

    `reference` semantics take the lengths as they are, on inputs padded to `sequence_length`.
    `natural` semantics take them as shares: an input of n real tokens keeps `kept(n)`.

    With `layers` it is a sub-network of an elastic model (`elastic_layers`): prefixes of its
    sorted heads and neurons, without the layers that are left out, which drop no tokens.

    Raises QualaError for lengths that grow, that exceed the sequence, or that fall below 2, and
    for `layers` that are not as many, or all left out.
    """

    lengths: tuple[int, ...]
    sequence_length: int
    layers: Layers = ()

    def __post_init__(self) -> None:
        if not self.lengths:
            raise QualaError("A length configuration needs at least one length, got none.")
        if any(length < MIN_TOKENS for length in self.lengths):
            raise QualaError(f"Lengths must be at least {MIN_TOKENS}, got {self}.")
        if self.lengths[0] > self.sequence_length:
            raise QualaError(
                f"Lengths must not exceed the sequence length {self.sequence_length}, got {self}."
            )
        if any(later > earlier for earlier, later in zip(self.lengths, self.lengths[1:])):
            raise QualaError(f"Lengths must not grow from layer to layer, got {self}.")
        if self.layers and len(self.layers) != len(self.lengths):
            raise QualaError(
                f"Expected sizes of {len(self.lengths)} layers, got {len(self.layers)}: {self}."
            )
        if self.layers and not any(self.layers):
            raise QualaError("A sub-network needs at least one layer, got none.")
        if any(drop and layer in self.left_out for layer, drop in enumerate(self.drops)):
            raise QualaError(f"A layer that is left out drops no tokens, got {self}.")

    def __str__(self) -> str:
        lengths = ",".join(map(str, self.lengths))
        return f"{lengths}@{layers_name(self.layers)}" if self.layers else lengths

    @classmethod
    def parse(cls, text: str, *, layers: int, sequence_length: int) -> LengthConfig:
        """Read `315,251,...`, one length per layer, and units after an `@` as `str` writes them.

        `full` stands for lengths that drop nothing, as `name` writes it. Raises QualaError when it
        is malformed.
        """
        counts, _, units = text.partition("@")
        if counts.strip() == FULL:
            whole = cls.full(layers=layers, sequence_length=sequence_length)
            return whole.of(read_layers(units, layers=layers) if units else ())
        try:
            lengths = tuple(int(part) for part in counts.strip("() ").split(","))
        except ValueError as error:
            raise QualaError(
                f"Lengths must be whole numbers separated by commas, got `{text}`."
            ) from error
        if len(lengths) != layers:
            raise QualaError(
                f"Expected {layers} lengths, one per layer, got {len(lengths)}: `{text}`."
            )
        return cls(lengths, sequence_length, read_layers(units, layers=layers) if units else ())

    @classmethod
    def full(cls, *, layers: int, sequence_length: int) -> LengthConfig:
        """Return the configuration that drops nothing."""
        return cls((sequence_length,) * layers, sequence_length)

    @property
    def name(self) -> str:
        """The text as `str` gives it, with `full` for lengths that drop nothing: `full@6x768`."""
        counts, at, units = str(self).partition("@")
        return f"{counts if any(self.drops) else FULL}{at}{units}"

    @property
    def drops(self) -> tuple[bool, ...]:
        """Return for each layer whether it drops tokens."""
        return tuple(
            later < earlier
            for earlier, later in zip((self.sequence_length, *self.lengths), self.lengths)
        )

    @property
    def left_out(self) -> frozenset[int]:
        """Return the layers that do not run."""
        return left_out(self.layers)

    @property
    def whole(self) -> LengthConfig:
        """Return the same lengths with all units of all layers."""
        return LengthConfig(self.lengths, self.sequence_length) if self.layers else self

    @property
    def extracted(self) -> LengthConfig:
        """Return the lengths of the layers that stay, for the model of those layers alone."""
        stay = [layer for layer in range(len(self.lengths)) if layer not in self.left_out]
        return LengthConfig(tuple(self.lengths[layer] for layer in stay), self.sequence_length)

    def of(self, layers: Layers) -> LengthConfig:
        """Return the sub-network of these layers at these lengths, repeated where one is left out.

        A layer that is left out keeps what the one before it does.
        """
        lengths, length = [], self.sequence_length
        for layer, own in enumerate(self.lengths):
            length = length if layers and layers[layer] is None else own
            lengths.append(length)
        return LengthConfig(tuple(lengths), self.sequence_length, layers)

    @property
    def is_full(self) -> bool:
        """Say whether all units of all layers run, on all tokens."""
        return not self.layers and not any(self.drops)

    def kept(self, tokens: int) -> tuple[int, ...]:
        """Return how many of an input's `tokens` real tokens each layer keeps.

        `tokens` times `length / sequence_length`, rounded up, at least 2 but at most `tokens`.
        """
        floor = min(MIN_TOKENS, tokens)
        return tuple(
            max(floor, -(-length * tokens // self.sequence_length)) for length in self.lengths
        )


def left_out(layers: Layers) -> frozenset[int]:
    """Return the layers that are None."""
    return frozenset(layer for layer, units in enumerate(layers) if units is None)


def layers_name(layers: Layers) -> str:
    """Return `6x768` for layers of the same units, else those of each, `-` for one left out."""
    names = ["-" if units is None else str(units) for units in layers]
    return names[0] if len(set(names)) == 1 else ",".join(names)


def layers_text(name: str) -> str:
    """Return what tables say of a `layers_name`: `6x768 without layers 2, 5`, counted from 1."""
    units = name.split(",")
    out = [str(place) for place, one in enumerate(units, start=1) if one == "-"]
    kinds = {*units} - {"-"}
    if not out or len(kinds) != 1:
        return name
    return f"{kinds.pop()} without layer{'s' if len(out) > 1 else ''} {', '.join(out)}"


_UNITS = re.compile("0*([1-9][0-9]{0,8})x0*([1-9][0-9]{0,8})")


def read_layers(text: str, *, layers: int) -> Layers:
    """Read what `layers_name` wrote. Raises QualaError when it is malformed."""
    parts = text.split(",")
    found: list[Units | None] = []
    for part in parts * layers if len(parts) == 1 else parts:
        units = _UNITS.fullmatch(part.strip())
        if part.strip() != "-" and units is None:
            raise QualaError(
                "The units of a layer must be HEADSxNEURONS, each at least 1, or - for one left "
                f"out, got `{quoted(part)}`."
            )
        found.append(Units(int(units[1]), int(units[2])) if units else None)
    if len(found) != layers:
        raise QualaError(f"Expected units of {layers} layers, got {len(found)}: `{text}`.")
    return tuple(found)


def elastic_layers(
    whole: Sequence[Units], widths: Sequence[float], depths: Sequence[float]
) -> list[Layers]:
    """Return the layers of each width and depth, as DynaBERT's (arXiv 2004.04037); empty: all.

    A width w keeps round(w n) of a layer's heads and of its neurons, at least one. A depth d keeps
    the layers floor(i / d) for i < round(d L).

    Raises:
        QualaError: for multipliers outside 0 (excluded) to 1, and for two that give the same
            sizes.
    """
    for name, values in (("widths", widths), ("depths", depths)):
        if not values or not all(0 < value <= 1 for value in values):
            raise QualaError(f"`{name}` must be above 0 and at most 1, got {list(values)}.")
    made: dict[Layers, tuple[float, float]] = {}
    for depth in depths:
        kept = {math.floor(place / depth) for place in range(max(1, round(depth * len(whole))))}
        for width in widths:
            layers = tuple(
                Units(max(1, round(width * units.heads)), max(1, round(width * units.neurons)))
                if layer in kept
                else None
                for layer, units in enumerate(whole)
            )
            layers = () if layers == tuple(whole) else layers
            if layers in made:
                raise QualaError(
                    f"The widths and depths {made[layers]} and {(width, depth)} give the same "
                    f"sizes, {layers_name(layers or tuple(whole))}: leave one out."
                )
            made[layers] = width, depth
    return list(made)


def constant_drop(
    rate: float, *, layers: int, sequence_length: int, skipped: frozenset[int] = frozenset()
) -> LengthConfig:
    """Drop the share `rate` at every layer; kept counts are rounded up (LAT's `ratio` mode).

    A layer that LayerDrop skips leaves the length as it is.
    """
    lengths, length = [], sequence_length
    for layer in range(layers):
        if layer not in skipped:
            length = max(MIN_TOKENS, math.ceil(length * (1 - rate)))
        lengths.append(length)
    return LengthConfig(tuple(lengths), sequence_length)


def sample_length_drop(
    bound: float, *, layers: int, sequence_length: int, rng: Random, skipped: frozenset[int]
) -> LengthConfig:
    """Draw lengths as LengthDrop does (arXiv 2010.07003, section 3.1).

    Each layer's length is uniform on [ceil((1 - bound) * previous), previous], both ends
    included; a layer that LayerDrop skips leaves the length as it is.
    """
    lengths, length = [], sequence_length
    for layer in range(layers):
        if layer not in skipped:
            lowest = max(MIN_TOKENS, math.ceil(length * (1 - bound)))
            length = rng.randint(min(lowest, length), length)
        lengths.append(length)
    return LengthConfig(tuple(lengths), sequence_length)


def sample_few_drops(
    bound: float, *, layers: int, sequence_length: int, rng: Random, skipped: frozenset[int]
) -> LengthConfig:
    """Draw lengths that drop tokens at one to three layers only.

    The total share that is dropped is uniform, up to what `bound` at every layer would drop, and
    is divided at random between the chosen layers. Every layer is chosen equally often.
    """
    candidates = [layer for layer in range(layers) if layer not in skipped]
    chosen = set(rng.sample(candidates, min(len(candidates), rng.randint(1, 3))))
    smallest = math.ceil(sequence_length * (1 - bound) ** layers)
    last = rng.randint(max(MIN_TOKENS, smallest), sequence_length)
    cuts = [rng.randint(last, sequence_length) for _ in range(len(chosen) - 1)]
    remaining = iter([*sorted(cuts, reverse=True), last])
    lengths, length = [], sequence_length
    for layer in range(layers):
        length = next(remaining) if layer in chosen else length
        lengths.append(length)
    return LengthConfig(tuple(lengths), sequence_length)


def sample_layer_drop(probability: float, *, layers: int, rng: Random) -> frozenset[int]:
    """Draw the layers that LayerDrop skips, each with `probability`, never all of them."""
    while True:
        skipped = frozenset(layer for layer in range(layers) if rng.random() < probability)
        if len(skipped) < layers:
            return skipped
