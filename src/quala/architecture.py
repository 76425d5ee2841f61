"""The sizes of an encoder, as config.json records them: its own, and what compression left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
KERNELS_KEY, KERNELS = "quala_kernels", ("gelu", "softmax", "layernorm")
"""The entry of config.json that lists the functions which compute on integers, and their names."""
MOST_NORMED, MOST_ATTENDED = 2**10, 1467
"""Widths and tokens up to which the sums of those functions fit 32 and 24 bits."""

ELASTIC = "quala_elastic"
"""The entry of config.json with the sub-networks that a model was trained for."""

LINEARS = ("query", "key", "value", "attention_out", "ffn_in", "ffn_out")
"""The linear layers of an encoder layer, in the order of the data."""

DENSE = (0,) * len(LINEARS)
WHOLE = (1,) * len(LINEARS)
Linear = tuple[int, int, bool]  # inputs, outputs, biased


WIDEST, DEEPEST, LONGEST, MOST_WORDS = 2**14, 2**9, 2**17, 2**24
"""Limits of hidden size, layers, positions and vocabulary: far above those of any encoder, and
so that costs fit 64 bits. Feed-forward layers have at most `LONGEST` neurons."""
MOST_EXPERTS = 127
"""A table of experts has an int8 for each token id."""


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """The sizes of one encoder layer; a rank 0 stands for one dense matrix.

    `copies` says how many layers are summed in each place: 2 where one was split in halves.
    `experts` is how many feed-forwards of `intermediate` neurons there are where the id of a token
    chooses one (MoEBERT), else 0.

    Raises:
        QualaError: for sizes out of range, unless ranks and copies are six each, and for experts
            that are factorized or split.
    """

    heads: int = ranged(at_most=WIDEST)
    intermediate: int = ranged(at_most=LONGEST)
    ranks: tuple[int, ...] = DENSE
    copies: tuple[int, ...] = WHOLE
    experts: int = ranged(0, at_least=0, at_most=MOST_EXPERTS)

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
        if self.experts and (self.experts == 1 or any(self.ranks[4:]) or max(self.copies[4:]) > 1):
            raise QualaError(
                f"A layer needs no experts or two or more dense ones, got {self.experts} of ranks "
                f"{self.ranks[4:]} and copies {self.copies[4:]}."
            )

    def linears(
        self, *, hidden: int, head_size: int, facts: ConfigFacts
    ) -> tuple[list[Linear], list[Linear]]:
        """Return the linear layers of the attention and of the feed-forward, factors apart."""
        shapes = self.shapes(hidden=hidden, head_size=head_size, facts=facts)
        made = {
            part: _factors(*shapes[part], rank, biased=facts.biased) * copies
            for part, rank, copies in zip(LINEARS, self.ranks, self.copies, strict=True)
            if part in shapes
        }
        attention = [linears for part, linears in made.items() if not part.startswith("ffn")]
        return [*chain(*attention)], [*chain(made["ffn_in"], made["ffn_out"])]

    def shapes(
        self, *, hidden: int, head_size: int, facts: ConfigFacts
    ) -> dict[str, tuple[int, int]]:
        """Return inputs and outputs of each linear layer; `query` stands for packed ones."""
        width, inner = self.heads * head_size, self.intermediate
        projections = dict.fromkeys(LINEARS[:3], (hidden, width))
        if facts.packed:
            projections = {"query": (hidden, 3 * width)}
        return projections | {
            "attention_out": (width, hidden),
            "ffn_in": (hidden, inner * (2 if facts.gated else 1)),
            "ffn_out": (inner, hidden),
        }


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
        for layer in layers:
            if not layer["experts"]:
                del layer["experts"]  # older versions did not write it
        return {
            "layers": layers,
            "embedding_rank": self.embedding_rank,
            "embedding_copies": self.embedding_copies,
        }


def _factors(inputs: int, outputs: int, rank: int, *, biased: bool) -> list[Linear]:
    if not rank:
        return [(inputs, outputs, biased)]
    return [(inputs, rank, False), (rank, outputs, biased)]


@dataclass(frozen=True, slots=True)
class Relative:
    """Queries and keys of distances inside the attention (DeBERTa, arXiv 2006.03654)."""

    rows: int = ranged(at_least=2, at_most=2 * LONGEST)
    """Rows of the table of distances, which each of the products has as columns."""
    products: tuple[str, ...] = ()
    """`c2p`: queries and keys of distances; `p2c`: keys and queries of distances."""
    shared: bool = True
    """Whether the projections of the contents also make those of the distances."""
    normed: bool = True
    """Whether the table is normalized."""
    absolute: bool = False
    """Whether a table of absolute positions is added to the word embeddings as well."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Relative | None:
        """Read a config.json; None where the attention knows no distances."""
        if not config.get("relative_attention"):
            return None
        buckets, farthest = (
            typed(int, config.get(key, -1), key)
            for key in ("position_buckets", "max_relative_positions")
        )
        if farthest < 1:
            farthest = typed(int, config["max_position_embeddings"], "max_position_embeddings")
        kinds, norms = config.get("pos_att_type") or (), config.get("norm_rel_ebd", "none")
        made = cls(
            rows=2 * (buckets if buckets > 0 else farthest),
            products=tuple(kind for kind in ("c2p", "p2c") if kind in kinds),
            shared=bool(config.get("share_att_key", False)),
            normed="layer_norm" in [one.strip() for one in str(norms).lower().split("|")],
            absolute=bool(config.get("position_biased_input", True)),
        )
        check_ranges(made)
        return made

    def to_config(self) -> dict[str, Any]:
        """Return keys of config.json that `from_config` reads as this."""
        return {
            "relative_attention": True,
            "position_buckets": self.rows // 2,
            "pos_att_type": list(self.products),
            "share_att_key": self.shared,
            "norm_rel_ebd": "layer_norm" if self.normed else "none",
            "position_biased_input": self.absolute,
        }


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
    required: Mapping[str, Any] = field(default_factory=dict)
    """Values of config.json that the family's layers are written for; a missing one is right."""
    hidden_dropout: str = "hidden_dropout_prob"
    """Key of the dropout rate outside the attention."""
    attention_dropout: str = "attention_probs_dropout_prob"
    """Key of the dropout rate of the attention's probabilities."""
    first_position: int = 0
    """Position of a text's first token: 2 where positions begin after the padding id 1."""
    products_per_token: int = 1
    """Elementwise products per token that a profiler of the published code counts outside the
    layers: BERT multiplies the mask, RoBERTa the mask and the position ids."""
    bias_rows: int = 0
    """Rows of a table of attention biases with a column for each head, which stays float."""
    packed: bool = False
    """Whether queries, keys and values are one matrix."""
    gated: bool = False
    """Whether the first feed-forward matrix gives two numbers for each neuron, which are
    multiplied."""
    biased: bool = True
    """Whether the layers, their norms and the hidden layer of the head have biases."""
    position_table: bool = True
    """Whether there is a table of positions beside that of words."""
    head_layer: bool = False
    """Whether the head of each token has a hidden layer and both heads have a norm after it."""
    disentangled: bool = False
    """Whether config.json may ask for relative positions inside the attention (`Relative`)."""
    shared_layers: bool = False
    """Whether all layers have the same weights."""
    projected: bool = False
    """Whether a linear layer follows the embeddings even where it changes no width."""


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


def check_kernels(names: Iterable[str], config: Mapping[str, Any]) -> None:
    """Raise QualaError for a config.json whose functions have no integer kernels of these names.

    The kernels replace what BERT has: an exact GELU, and norms after the sums.
    """
    kind = str(config.get("model_type"))
    facts = config_facts(kind)
    if facts.gated or not facts.biased:
        raise QualaError(
            f"`kernels` are for layers as BERT's, got `{kind}`: its norms come before the sums, "
            "which then have no limit."
        )
    activation = config.get("hidden_act", config.get("activation", "gelu"))
    width, positions = (config.get(facts.keys[key], 0) for key in ("hidden", "positions"))
    for name, fits, needs, got in (
        ("gelu", activation == "gelu", "the activation `gelu`", activation),
        ("softmax", positions <= MOST_ATTENDED, f"at most {MOST_ATTENDED} tokens", positions),
        ("layernorm", width <= MOST_NORMED, f"a width of at most {MOST_NORMED}", width),
    ):
        if name in names and not fits:
            raise QualaError(f"The kernel `{name}` needs {needs}, got {got}.")


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
    relative: Relative | None = None

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
        return self.embedding != self.hidden or config_facts(self.family).projected

    @property
    def stored(self) -> tuple[LayerSizes, ...]:
        """Return the sizes of the layers that have weights of their own."""
        return self.sizes[:1] if config_facts(self.family).shared_layers else self.sizes

    @property
    def sizes(self) -> tuple[LayerSizes, ...]:
        """Return the sizes of each layer."""
        if self.structure is not None:
            return self.structure.layers
        return (LayerSizes(self.heads, self.intermediate),) * self.layers

    @property
    def routed(self) -> bool:
        """Say whether token ids choose the feed-forward of a layer among several."""
        return any(size.experts for size in self.sizes)

    @property
    def embedding_rank(self) -> int:
        """Return the width of the word embeddings' table where it is factorized, else 0."""
        return self.structure.embedding_rank if self.structure is not None else 0

    @property
    def embedding_copies(self) -> int:
        """Return how many tables of word embeddings are summed."""
        return self.structure.embedding_copies if self.structure is not None else 1
