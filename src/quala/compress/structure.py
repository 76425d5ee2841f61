"""Models whose layers differ in size: find their parts, record the sizes, write and read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from quala.compress.factorise.layers import FactorisedEmbedding, FactorisedLinear
from quala.compress.prune.sparse import FILE, dense_state, is_sparse
from quala.compress.quantize.split import Split
from quala.errors import QualaError
from quala.models.family import family_of
from quala.structure import DENSE, KEY, LINEARS, WHOLE, LayerSizes, Structure

_Model = TypeVar("_Model", bound=PreTrainedModel)
AnyLinear = nn.Linear | FactorisedLinear
AnyEmbedding = nn.Embedding | FactorisedEmbedding


def head_size(hf: PreTrainedModel) -> int:
    """Return the width of one attention head, which pruning does not change."""
    return int(hf.config.hidden_size // hf.config.num_attention_heads)


def linear_names(hf: PreTrainedModel) -> list[dict[str, str]]:
    """Return for each encoder layer the dotted names of its linear layers, keyed as `LINEARS`."""
    family, names = family_of(hf), {module: name for name, module in hf.named_modules()}
    blocks = (family.block(layer) for layer in family.layers(hf))
    return [{part: names[getattr(block, part)] for part in LINEARS} for block in blocks]


def embedding_name(hf: PreTrainedModel) -> str:
    """Return the dotted name of the word embeddings."""
    family_of(hf)
    return f"{hf.base_model_prefix}.embeddings.word_embeddings"


def float_linear(hf: PreTrainedModel, name: str) -> AnyLinear:
    """Return a linear layer, dense or factorised. Raises QualaError for a quantized one."""
    module = hf.get_submodule(name)
    if type(module) not in (nn.Linear, FactorisedLinear):
        raise QualaError(
            f"`{name}` is a {type(module).__name__}; change the structure before quantizing."
        )
    return cast("AnyLinear", module)


def float_embedding(hf: PreTrainedModel) -> AnyEmbedding:
    """Return the word embeddings, dense or factorised. Raises QualaError for quantized ones."""
    module = hf.get_submodule(embedding_name(hf))
    if type(module) not in (nn.Embedding, FactorisedEmbedding):
        raise QualaError(
            f"The word embeddings are a {type(module).__name__}; change the structure before "
            "quantizing."
        )
    return cast("AnyEmbedding", module)


def structure_of(hf: PreTrainedModel) -> Structure:
    """Measure the sizes of all layers, and the rank of the word embeddings; count their copies."""
    layers = []
    for names in linear_names(hf):
        found = {part: hf.get_submodule(name) for part, name in names.items()}
        parts: dict[str, Any] = {part: _one(module) for part, module in found.items()}
        ranks = tuple(_rank(module) for module in parts.values())
        heads = parts["query"].out_features // head_size(hf)
        copies = tuple(_copies(module) for module in found.values())
        layers.append(LayerSizes(heads, parts["ffn_in"].out_features, ranks, copies))
    words = hf.get_submodule(embedding_name(hf))
    return Structure(tuple(layers), _rank(words), _copies(words))


def record_structure(hf: _Model) -> _Model:
    """Write the sizes of `hf` into its config, which saving and cost read, and return it.

    One feed-forward width for all layers becomes the config's own; a model whose layers are
    equal and dense has no entry and stays an ordinary checkpoint.
    """
    structure = structure_of(hf)
    widths = {layer.intermediate for layer in structure.layers}
    if len(widths) == 1:
        key = "hidden_dim" if hf.config.model_type == "distilbert" else "intermediate_size"
        setattr(hf.config, key, widths.pop())
    if _is_plain(hf, structure):
        if hasattr(hf.config, KEY):
            delattr(hf.config, KEY)
    else:
        setattr(hf.config, KEY, structure.to_json())
    return hf


def is_structured(source: str | Path) -> bool:
    """Tell whether `source` is a folder whose config.json records a structure."""
    file = Path(source) / "config.json"
    if not file.is_file():
        return False
    try:
        return KEY in json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise QualaError(f"`{file}` is no JSON: {error}.") from error


def load_structured(folder: str | Path) -> PreTrainedModel:
    """Read a float model from the folder that `save_pretrained` or `save_model` wrote.

    In float32, on the CPU, in evaluation mode; zeros that the file leaves out are filled in.

    Raises:
        QualaError: for a folder without a structure, or weights that do not fit it.
    """
    if not (is_structured(folder) or is_sparse(folder)):
        raise QualaError(f"`{folder}` records no structure; load it with `load_model`.")
    hf = skeleton(folder, dtype=torch.float32)
    try:
        hf.load_state_dict(dense_state(load_file(Path(folder) / FILE), hf.state_dict()))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise QualaError(f"The weights in `{folder}` do not fit its structure: {error}") from error
    hf.eval()
    return hf


def skeleton(folder: str | Path, **options: Any) -> PreTrainedModel:
    """Return a float model of the kind and sizes in config.json, its weights to be overwritten.

    `options` go to transformers' `from_config`. Raises QualaError for a kind that quala cannot
    build.
    """
    config = AutoConfig.from_pretrained(folder)
    kind = (config.architectures or [""])[0]
    auto: Any = AutoModel
    if kind.endswith("ForQuestionAnswering"):
        auto = AutoModelForQuestionAnswering
    elif kind.endswith("ForSequenceClassification"):
        auto = AutoModelForSequenceClassification
    with torch.random.fork_rng(devices=[]):  # the throw-away initial weights draw numbers
        model: PreTrainedModel = auto.from_config(config, **options)
        if type(model).__name__ != kind:
            raise QualaError(
                f"`{folder}` holds a {kind or 'nameless model'}, which quala cannot build."
            )
        if hasattr(config, KEY):
            rebuild(model)
    return model


def rebuild(hf: PreTrainedModel) -> None:
    """Give a freshly initialised `hf`, in place, the sizes that its config records.

    Raises:
        QualaError: for a record that does not fit the model's depth or hidden size.
    """
    facts = getattr(hf.config, KEY, None)
    if facts is None:
        return
    structure, names = Structure.from_json(facts), linear_names(hf)
    if len(structure.layers) != len(names):
        raise QualaError(f"`{KEY}` has {len(structure.layers)} layers, the model {len(names)}.")
    for layer, sizes in zip(names, structure.layers, strict=True):
        for part, rank in zip(LINEARS, sizes.ranks, strict=True):
            inputs, outputs = _shape(hf, part, sizes)
            made = FactorisedLinear(inputs, outputs, rank) if rank else nn.Linear(inputs, outputs)
            hf.set_submodule(layer[part], made)
    if structure.embedding_rank:
        old = float_embedding(hf)
        hf.set_submodule(
            embedding_name(hf),
            FactorisedEmbedding(
                old.num_embeddings,
                old.embedding_dim,
                structure.embedding_rank,
                padding_idx=cast("nn.Embedding", old).padding_idx,
            ),
        )


def _shape(hf: PreTrainedModel, part: str, sizes: LayerSizes) -> tuple[int, int]:
    """Return the inputs and outputs of a linear layer."""
    hidden, width = int(hf.config.hidden_size), sizes.heads * head_size(hf)
    return {
        "attention_out": (width, hidden),
        "ffn_in": (hidden, sizes.intermediate),
        "ffn_out": (sizes.intermediate, hidden),
    }.get(part, (hidden, width))


def _copies(module: nn.Module) -> int:
    return 2 if isinstance(module, Split) else 1


def _one(module: nn.Module) -> nn.Module:
    return module.first if isinstance(module, Split) else module


def _rank(module: nn.Module) -> int:
    return module.rank if isinstance(module, FactorisedLinear | FactorisedEmbedding) else 0


def _is_plain(hf: PreTrainedModel, structure: Structure) -> bool:
    sizes = set(structure.layers)
    full = hf.config.num_attention_heads
    return (
        not structure.embedding_rank
        and structure.embedding_copies == 1
        and len(sizes) == 1
        and all(
            size.heads == full and (size.ranks, size.copies) == (DENSE, WHOLE) for size in sizes
        )
    )
