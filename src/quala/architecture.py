"""The sizes of an encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from quala.errors import QualaError, unknown
from quala.structure import LayerSizes, Structure

Family = Literal["bert", "roberta", "xlm-roberta", "electra", "distilbert"]
Head = Literal["span", "sentence"]

FAMILIES: tuple[Family, ...] = get_args(Family)


@dataclass(frozen=True, slots=True)
class Architecture:
    """The sizes of an encoder that decide its cost.

    `embedding` is the width of the embedding table (0 means `hidden`); `head` is a `span` head
    (`outputs` numbers per token) or a `sentence` head (a hidden layer on the first token, then
    `outputs` numbers). `structure` says what compression left of the layers; `heads` then still
    divides `hidden` into the size of a head. Raises QualaError when it does not, and for a
    structure of another depth.
    """

    family: Family
    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int
    positions: int
    type_vocabulary: int
    embedding: int = 0
    outputs: int = 2
    head: Head = "span"
    structure: Structure | None = None

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise unknown("model family", self.family, FAMILIES)
        if self.hidden % self.heads:
            raise QualaError(f"`heads` must divide `hidden` {self.hidden}, got {self.heads}.")
        if self.structure is not None and len(self.structure.layers) != self.layers:
            raise QualaError(
                f"`structure` needs {self.layers} layers, got {len(self.structure.layers)}."
            )
        if not self.embedding:
            object.__setattr__(self, "embedding", self.hidden)

    @property
    def longest(self) -> int:
        """Return the longest input in tokens; RoBERTa's positions start after the padding id."""
        return self.positions - 2 if self.family in ("roberta", "xlm-roberta") else self.positions

    @property
    def projected(self) -> bool:
        """Say whether a linear layer takes the embeddings to the hidden width (ELECTRA)."""
        return self.embedding != self.hidden

    @property
    def sizes(self) -> tuple[LayerSizes, ...]:
        """Return the sizes of each layer."""
        if self.structure is not None:
            return self.structure.layers
        return (LayerSizes(self.heads, self.intermediate),) * self.layers

    @property
    def embedding_rank(self) -> int:
        """Return the width of the word embeddings' table where it is factorised, else 0."""
        return self.structure.embedding_rank if self.structure is not None else 0

    @property
    def embedding_copies(self) -> int:
        """Return how many tables of word embeddings are summed."""
        return self.structure.embedding_copies if self.structure is not None else 1
