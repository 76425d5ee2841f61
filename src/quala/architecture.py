"""The sizes of an encoder, as config.json records them: its own, and what compression left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any, Literal

from quala.errors import QualaError
from quala.plugins import FAMILIES

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


Head = Literal["span", "sentence"]


@dataclass(frozen=True, kw_only=True)
class ConfigFacts:
    """What a model family's config.json means; the rest of a family is its modules."""

    keys: Mapping[str, str] = field(
        default_factory=lambda: {
            "hidden": "hidden_size",
            "intermediate": "intermediate_size",
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "vocabulary": "vocab_size",
            "positions": "max_position_embeddings",
            "type_vocabulary": "type_vocab_size",
        }
    )
    """Keys of config.json by field of `Architecture`; a size without a key is 0."""
    hidden_dropout: str = "hidden_dropout_prob"
    """Key of the dropout rate outside the attention."""
    attention_dropout: str = "attention_probs_dropout_prob"
    """Key of the dropout rate of the attention's probabilities."""
    first_position: int = 0
    """Position of a text's first token: 2 where positions begin after the padding id 1."""
    products_per_token: int = 1
    """Elementwise products per token that a profiler of the published code counts outside the
    layers: BERT multiplies the mask, RoBERTa the mask and the position ids."""


def config_facts(model_type: str) -> ConfigFacts:
    """Return what the config.json of a model family means.

    Raises QualaError for a `model_type` that is neither built in nor installed.
    """
    facts: ConfigFacts = FAMILIES.find(model_type).facts
    return facts


@dataclass(frozen=True, slots=True)
class Architecture:
    """The sizes of an encoder that decide its cost.

    `embedding` is the width of the embedding table (0 means `hidden`); `head` is a `span` head
    (`outputs` numbers per token) or a `sentence` head (a hidden layer on the first token, then
    `outputs` numbers). `structure` says what compression left of the layers; `heads` then still
    divides `hidden` into the size of a head. Raises QualaError when it does not, and for a
    structure of another depth.
    """

    family: str
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
        FAMILIES.check(self.family)
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
        """Return the longest input in tokens."""
        return self.positions - config_facts(self.family).first_position

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
        """Return the width of the word embeddings' table where it is factorized, else 0."""
        return self.structure.embedding_rank if self.structure is not None else 0

    @property
    def embedding_copies(self) -> int:
        """Return how many tables of word embeddings are summed."""
        return self.structure.embedding_copies if self.structure is not None else 1
