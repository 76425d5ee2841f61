"""The sizes of an encoder, as config.json records them: its own, and what compression left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from quala.errors import QualaError
from quala.plugins import FAMILIES
from quala.ranges import check_ranges, ranged
from quala.stored import read_object, stored, typed

CONFIG, KEY = "config.json", "quala_structure"
"""The entry of config.json; a model without it has equal, dense layers."""

LINEARS = ("query", "key", "value", "attention_out", "ffn_in", "ffn_out")
"""The linear layers of an encoder layer, in the order of the data."""

DENSE = (0,) * len(LINEARS)
WHOLE = (1,) * len(LINEARS)
Linear = tuple[int, int, bool]  # inputs, outputs, biased


WIDEST, DEEPEST, LONGEST, MOST_WORDS = 2**14, 2**9, 2**17, 2**24
"""Limits of hidden size, layers, positions and vocabulary: far above those of any encoder, and
so that costs fit 64 bits. Feed-forward layers have at most `LONGEST` neurons."""


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """The sizes of one encoder layer; a rank 0 stands for one dense matrix.

    `copies` says how many layers are summed in each place: 2 where one was split in halves.

    Raises:
        QualaError: for sizes out of range, and unless ranks and copies are six each.
    """

    heads: int = ranged(at_most=WIDEST)
    intermediate: int = ranged(at_most=LONGEST)
    ranks: tuple[int, ...] = DENSE
    copies: tuple[int, ...] = WHOLE

    def __post_init__(self) -> None:
        if self.heads < 1 or self.intermediate < 1:
            raise QualaError(
                f"A layer needs a head and a neuron, got {self.heads} and {self.intermediate}."
            )
        if (
            len(self.ranks) != len(LINEARS)
            or not 0 <= min(self.ranks) <= max(self.ranks) <= WIDEST
        ):
            raise QualaError(f"A layer needs six ranks from 0 to {WIDEST}, got {self.ranks}.")
        if len(self.copies) != len(LINEARS) or not 1 <= min(self.copies) <= max(self.copies) <= 8:
            raise QualaError(f"A layer needs six copies from 1 to 8, got {self.copies}.")

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
    embedding_rank: int = ranged(0, at_least=0, at_most=WIDEST)
    embedding_copies: int = ranged(1, at_least=1, at_most=8)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Structure:
        """Read what `to_json` returned. Raises QualaError when it is damaged."""
        try:
            found: Structure = typed(cls, facts)
        except QualaError as error:
            raise QualaError(f"`{KEY}` in config.json is damaged: {error}") from error
        return found

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


Head = Literal["span", "sentence", "none"]


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


@dataclass(frozen=True)
class Outputs:
    """What config.json says of a model's outputs; transformers makes a text of each."""

    id2label: Mapping[str, Any] | None = None
    num_labels: int | None = ranged(None, at_least=1, at_most=LONGEST)
    architectures: list[str] | None = None


def check_config(folder: Path) -> None:
    """Check config.json before transformers reads it.

    Raises QualaError for one that would take much memory, or code or weights from elsewhere.
    """
    facts = read_object(folder / CONFIG)
    stored(Outputs, facts, folder / CONFIG)
    if "/" in str(facts.get("attn_implementation") or facts.get("_attn_implementation")):
        raise QualaError(
            f"`{folder / CONFIG}` asks for code from the hub (`attn_implementation`), which quala "
            "does not run."
        )
    if (folder / "adapter_config.json").is_file():
        raise QualaError(
            f"`{folder}` holds an adapter of another model (adapter_config.json): merge both "
            "(`merge_and_unload`) and give that."
        )


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
    divides `hidden` into the size of a head. Raises QualaError when it does not, for sizes out of
    range, and for a structure of another depth.
    """

    family: str
    hidden: int = ranged(at_least=1, at_most=WIDEST)
    intermediate: int = ranged(at_least=1, at_most=LONGEST)
    layers: int = ranged(at_least=1, at_most=DEEPEST)
    heads: int = ranged(at_least=1, at_most=WIDEST)
    vocabulary: int = ranged(at_least=1, at_most=MOST_WORDS)
    positions: int = ranged(at_least=0, at_most=LONGEST)
    type_vocabulary: int = ranged(at_least=0, at_most=LONGEST)
    embedding: int = ranged(0, at_least=0, at_most=WIDEST)
    outputs: int = ranged(2, at_least=1, at_most=LONGEST)
    head: Head = "span"
    structure: Structure | None = None

    def __post_init__(self) -> None:
        FAMILIES.check(self.family)
        check_ranges(self)
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
