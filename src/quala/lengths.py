"""How many tokens each layer keeps: the length configuration and how training samples one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from quala.errors import QualaError

MIN_TOKENS = 2
"""The first token, which classification reads, and one more."""


@dataclass(frozen=True, slots=True)
class LengthConfig:
    """Tokens kept by each layer, on the scale of an input of `sequence_length` tokens.

    `reference` semantics take the lengths as they are, on inputs padded to `sequence_length`.
    `natural` semantics take them as shares: an input of n real tokens keeps `kept(n)`.
    Raises QualaError for lengths that grow, that exceed the sequence, or that fall below 2.
    """

    lengths: tuple[int, ...]
    sequence_length: int

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

    def __str__(self) -> str:
        return ",".join(map(str, self.lengths))

    @classmethod
    def parse(cls, text: str, *, layers: int, sequence_length: int) -> LengthConfig:
        """Read `315,251,...`: one length per layer. Raises QualaError when it is malformed."""
        try:
            lengths = tuple(int(part) for part in text.strip("() ").split(","))
        except ValueError as error:
            raise QualaError(
                f"Lengths must be whole numbers separated by commas, got `{text}`."
            ) from error
        if len(lengths) != layers:
            raise QualaError(
                f"Expected {layers} lengths, one per layer, got {len(lengths)}: `{text}`."
            )
        return cls(lengths, sequence_length)

    @classmethod
    def full(cls, *, layers: int, sequence_length: int) -> LengthConfig:
        """Return the configuration that drops nothing."""
        return cls((sequence_length,) * layers, sequence_length)

    @property
    def drops(self) -> tuple[bool, ...]:
        """Return for each layer whether it drops tokens."""
        return tuple(
            later < earlier
            for earlier, later in zip((self.sequence_length, *self.lengths), self.lengths)
        )

    def kept(self, tokens: int) -> tuple[int, ...]:
        """Return how many of an input's `tokens` real tokens each layer keeps.

        `tokens` times `length / sequence_length`, rounded up, at least 2 but at most `tokens`.
        """
        floor = min(MIN_TOKENS, tokens)
        return tuple(
            max(floor, -(-length * tokens // self.sequence_length)) for length in self.lengths
        )


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
