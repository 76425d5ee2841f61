"""What compression left of each layer: heads, neurons and ranks, as config.json records them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from quala.errors import QualaError

KEY = "quala_structure"
"""The entry of config.json; a model without it has equal, dense layers."""

LINEARS = ("query", "key", "value", "attention_out", "ffn_in", "ffn_out")
"""The linear layers of an encoder layer, in the order of the data."""

DENSE = (0,) * len(LINEARS)
WHOLE = (1,) * len(LINEARS)
Linear = tuple[int, int, bool]  # inputs, outputs, biased


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """The sizes of one encoder layer; a rank 0 stands for one dense matrix.

    `copies` says how many layers are summed in each place: 2 where one was split in halves.

    Raises:
        QualaError: for a layer without heads or neurons, and unless ranks and copies are six each.
    """

    heads: int
    intermediate: int
    ranks: tuple[int, ...] = DENSE
    copies: tuple[int, ...] = WHOLE

    def __post_init__(self) -> None:
        if self.heads < 1 or self.intermediate < 1:
            raise QualaError(
                f"A layer needs a head and a neuron, got {self.heads} and {self.intermediate}."
            )
        if len(self.ranks) != len(LINEARS) or min(self.ranks) < 0:
            raise QualaError(f"A layer needs six ranks of 0 or more, got {self.ranks}.")
        if len(self.copies) != len(LINEARS) or min(self.copies) < 1:
            raise QualaError(f"A layer needs six copies of 1 or more, got {self.copies}.")

    def linears(self, *, hidden: int, head_size: int) -> tuple[list[Linear], list[Linear]]:
        """Return the linear layers of the attention and of the feed-forward, factors apart."""
        width, inner = self.heads * head_size, self.intermediate
        shapes = [(hidden, width)] * 3 + [(width, hidden), (hidden, inner), (inner, hidden)]
        made = [
            _factors(*shape, rank) * copies
            for shape, rank, copies in zip(shapes, self.ranks, self.copies, strict=True)
        ]
        return [*chain(*made[:4])], [*chain(*made[4:])]


@dataclass(frozen=True, slots=True)
class Structure:
    """The sizes of all layers, and of the word embeddings.

    A rank 0 stands for dense tables, `embedding_copies` says how many of them are summed.
    """

    layers: tuple[LayerSizes, ...]
    embedding_rank: int = 0
    embedding_copies: int = 1

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Structure:
        """Read what `to_json` returned. Raises QualaError when it is damaged."""
        try:
            layers = tuple(
                LayerSizes(
                    int(layer["heads"]),
                    int(layer["intermediate"]),
                    tuple(layer["ranks"]),
                    tuple(layer.get("copies", WHOLE)),
                )
                for layer in facts["layers"]
            )
            return cls(layers, int(facts["embedding_rank"]), int(facts.get("embedding_copies", 1)))
        except (KeyError, TypeError, ValueError) as error:
            raise QualaError(f"`{KEY}` in config.json is damaged: {error!r}.") from error

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        layers = [
            asdict(layer) | {"ranks": list(layer.ranks), "copies": list(layer.copies)}
            for layer in self.layers
        ]
        return {
            "layers": layers,
            "embedding_rank": self.embedding_rank,
            "embedding_copies": self.embedding_copies,
        }


def _factors(inputs: int, outputs: int, rank: int) -> list[Linear]:
    if not rank:
        return [(inputs, outputs, True)]
    return [(inputs, rank, False), (rank, outputs, True)]
