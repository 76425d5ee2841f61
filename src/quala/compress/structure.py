"""The sizes of a compressed encoder: measured, recorded in config.json, and built from there."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from quala.architecture import ELASTIC, KERNELS_KEY, KEY, LINEARS, LayerSizes, Structure
from quala.compress.kernels import rebuild_kernels
from quala.compress.low_rank import (
    AnyEmbedding,
    AnyLinear,
    FactorizedEmbedding,
    FactorizedLinear,
)
from quala.compress.prune.sparse import dense_state, is_sparse
from quala.data.task_embed import Embedding
from quala.errors import QualaError
from quala.models.experts import Experts, first_of
from quala.models.families import drop_pooler, family_of
from quala.models.load import read_config, stored_facts, weights_file
from quala.stored import read_object

_Model = TypeVar("_Model", bound=PreTrainedModel)


def head_size(hf: PreTrainedModel) -> int:
    """Return the width of one attention head, which pruning does not change."""
    return int(hf.config.hidden_size // hf.config.num_attention_heads)


def linear_names(hf: PreTrainedModel) -> list[dict[str, str]]:
    """Return for each encoder layer the dotted names of its linear layers, keyed as `LINEARS`.

    Where queries, keys and values are one matrix, it is named by `query` alone.
    """
    family, names = family_of(hf), {module: name for name, module in hf.named_modules()}
    blocks = (family.block(layer) for layer in family.layers(hf))
    packed = ("key", "value") if family.facts.packed else ()
    parts = [part for part in LINEARS if part not in packed]
    return [{part: names[getattr(block, part)] for part in parts} for block in blocks]


def embedding_name(hf: PreTrainedModel) -> str:
    """Return the dotted name of the word embeddings."""
    words = family_of(hf).embeddings(hf).words
    found: str = next(name for name, module in hf.named_modules() if module is words)
    return found


def float_linear(hf: PreTrainedModel, name: str) -> AnyLinear:
    """Return a linear layer, dense or factorized, whose size may be changed.

    Raises QualaError for a quantized or routed one, and where the family has a reason to keep the
    sizes.
    """
    check_sizes(hf)
    module = hf.get_submodule(name)
    if isinstance(module, Experts):
        raise QualaError(
            f"`{name}` has {len(module)} experts: narrow, prune or factorize a model before it is "
            "routed."
        )
    if type(module) not in (nn.Linear, FactorizedLinear):
        raise QualaError(
            f"`{name}` is a {type(module).__name__}; change the structure before quantizing."
        )
    return cast("AnyLinear", module)


def check_sizes(hf: PreTrainedModel) -> None:
    """Raise QualaError where the family has a reason to keep the sizes of the layers."""
    if reason := family_of(hf).fixed(hf):
        kind = hf.config.model_type
        raise QualaError(f"The layers of this `{kind}` cannot be pruned or factorized: {reason}.")


def float_embedding(hf: PreTrainedModel) -> AnyEmbedding:
    """Return the word embeddings, dense or factorized. Raises QualaError for quantized ones."""
    module = hf.get_submodule(embedding_name(hf))
    if type(module) not in (nn.Embedding, FactorizedEmbedding):
        raise QualaError(
            f"The word embeddings are a {type(module).__name__}; change the structure before "
            "quantizing."
        )
    return cast("AnyEmbedding", module)


def structure_of(hf: PreTrainedModel) -> Structure:
    """Return the sizes of all layers and of the word embeddings.

    A module of low rank has a `rank`, a sum of several modules has `copies`.
    """
    layers = []
    for names in linear_names(hf):
        found = {part: hf.get_submodule(name) for part, name in names.items()}
        parts: dict[str, Any] = {part: first_of(one) for part, one in found.items()}
        six = [parts.get(part, parts["query"]) for part in LINEARS]
        layers.append(
            LayerSizes(
                heads=parts["attention_out"].in_features // head_size(hf),
                intermediate=parts["ffn_out"].in_features,
                ranks=tuple(getattr(part, "rank", 0) for part in six),
                copies=tuple(getattr(part, "copies", 1) for part in six),
                experts=len(one) if isinstance(one := found["ffn_in"], Experts) else 0,
            )
        )
    words: Any = hf.get_submodule(embedding_name(hf))
    return Structure(tuple(layers), getattr(words, "rank", 0), getattr(words, "copies", 1))


def record_structure(hf: _Model) -> _Model:
    """Write the sizes of `hf` into its config, for saving and for its cost, and return `hf`.

    If all layers have the same feed-forward width, it becomes the config's own. A model whose
    layers are also dense and have all heads gets no entry and stays an ordinary checkpoint.
    """
    structure = structure_of(hf)
    widths = {layer.intermediate for layer in structure.layers}
    if len(widths) == 1:
        setattr(hf.config, family_of(hf).facts.keys["intermediate"], widths.pop())
    full = LayerSizes(hf.config.num_attention_heads, structure.layers[0].intermediate)
    if structure != Structure((full,) * len(structure.layers)):
        setattr(hf.config, KEY, structure.to_json())
    elif hasattr(hf.config, KEY):
        delattr(hf.config, KEY)
    return hf


def forget_structures(hf: PreTrainedModel) -> None:
    """Take out of the config the sub-networks that a training of the whole model ends."""
    if hasattr(hf.config, ELASTIC):
        delattr(hf.config, ELASTIC)


def is_structured(source: str | Path) -> bool:
    """Tell whether `source` is a folder whose config.json records a structure, or kernels."""
    file = Path(source) / "config.json"
    if not file.is_file():
        return False
    return not {KEY, KERNELS_KEY}.isdisjoint(read_object(file))


def load_structured(folder: str | Path) -> PreTrainedModel:
    """Read a float model from the folder that `save_pretrained` or `save_model` wrote.

    It is in float32, on the CPU, in evaluation mode. Zeros that the file leaves out are filled in.

    Raises:
        QualaError: for a folder without a structure, or weights that do not fit it.
    """
    if not (is_structured(folder) or is_sparse(folder)):
        raise QualaError(f"`{folder}` records no structure; load it with `load_model`.")
    hf = skeleton(folder, dtype=torch.float32)
    try:
        hf.load_state_dict(dense_state(load_file(weights_file(folder)), hf.state_dict()))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise QualaError(
            f"The weights in `{folder}` do not fit its structure: {reason}"
        ) from error
    hf.eval()
    return hf


def skeleton(folder: str | Path, **options: Any) -> PreTrainedModel:
    """Return a float model of the kind and sizes in config.json, with weights to be overwritten.

    `options` go to transformers' `from_config`. Raises QualaError for a kind that quala cannot
    build.
    """
    config = read_config(folder)
    kind = (config.architectures or [""])[0]
    auto: Any = AutoModel
    if kind.endswith("ForQuestionAnswering"):
        auto = AutoModelForQuestionAnswering
    elif kind.endswith("ForSequenceClassification"):
        auto = AutoModelForSequenceClassification
    elif kind.endswith("ForTokenClassification"):
        auto = AutoModelForTokenClassification
    with torch.random.fork_rng(devices=[]):  # initial weights draw random numbers
        try:
            model: PreTrainedModel = auto.from_config(config, **options, trust_remote_code=False)
        except Exception as error:  # transformers raises errors of many kinds for wrong values
            raise QualaError(f"`{folder}` holds no model that can be built: {error}") from error
        if type(model).__name__ != kind:
            raise QualaError(
                f"`{folder}` holds a {kind or 'nameless model'}, which quala cannot build."
            )
        if stored_facts(folder).get("task") == Embedding.kind:
            drop_pooler(model)
        if hasattr(config, KEY):
            rebuild(model)
        rebuild_kernels(model)
    return model


def rebuild(hf: PreTrainedModel) -> None:
    """Replace the layers of a new `hf`, in place, by those of the sizes that its config records.

    Raises:
        QualaError: for a record that does not fit the model's depth or hidden size.
    """
    facts = getattr(hf.config, KEY, None)
    if facts is None:
        return
    structure, names = Structure.from_json(facts), linear_names(hf)
    if len(structure.layers) != len(names):
        raise QualaError(f"`{KEY}` has {len(structure.layers)} layers, the model {len(names)}.")
    hidden, facts = int(hf.config.hidden_size), family_of(hf).facts
    for layer, sizes in zip(names, structure.layers, strict=True):
        shapes = sizes.shapes(hidden=hidden, head_size=head_size(hf), facts=facts)
        ranks = dict(zip(LINEARS, sizes.ranks, strict=True))
        for part, shape in shapes.items():
            rank, bias = ranks[part], facts.biased
            made: nn.Module = nn.Linear(*shape, bias=bias)
            if rank:
                made = FactorizedLinear(*shape, rank, bias=bias)
            hf.set_submodule(layer[part], made)
    for number, sizes in enumerate(structure.layers):
        if sizes.experts:
            blank = torch.zeros(hf.config.vocab_size, dtype=torch.int8)
            set_experts(hf, number, [hf] * sizes.experts, blank)
    if structure.embedding_rank:
        old = float_embedding(hf)
        hf.set_submodule(
            embedding_name(hf),
            FactorizedEmbedding(
                old.num_embeddings,
                old.embedding_dim,
                structure.embedding_rank,
                padding_idx=cast("nn.Embedding", old).padding_idx,
            ),
        )


def set_experts(
    hf: PreTrainedModel, layer: int, models: Sequence[PreTrainedModel], table: Tensor
) -> None:
    """Replace the feed-forward of a layer, in place, by those of `models`: one for each expert.

    `table` (vocabulary,) int8 says which expert a token id takes.
    """
    family, names = family_of(hf), {module: name for name, module in hf.named_modules()}
    own = family.block(family.layers(hf)[layer])
    for part in ("ffn_in", "ffn_out", "ffn_norm"):
        blocks = (family.block(family.layers(one)[layer]) for one in models)
        copies = [copy.deepcopy(getattr(block, part)) for block in blocks]
        made = Experts(copies, table.clone() if part == "ffn_in" else None)
        hf.set_submodule(names[getattr(own, part)], made)


def keep_layers(hf: _Model, layers: Sequence[int]) -> _Model:
    """Return a copy of `hf` with only these encoder layers; embeddings and heads are copied too.

    This is the lightweight layer reduction of XTC (arXiv 2206.01859). Sub-networks of an elastic
    model are none of the copy's.

    Args:
        hf: a model of a supported family, with any head.
        layers: rising layer numbers from 0, see `layers_to_keep`.

    Raises:
        QualaError: for a model of another family, or layers that it does not have.
    """
    family = family_of(hf)
    depth = len(family.layers(hf))
    kept = list(layers)
    if not kept or kept != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < depth:
        raise QualaError(f"`layers` must rise within 0 to {depth - 1}, got {kept}.")
    family.check_layers(kept)
    small = copy.deepcopy(hf)
    if hasattr(small.config, ELASTIC):  # the sub-networks of the whole model, which it is not
        delattr(small.config, ELASTIC)
    stack = family.layers(small)
    for layer in reversed(range(depth)):
        if layer not in kept:
            del stack[layer]
    family.set_layers(small.config, kept)
    forget_structures(small)
    if hasattr(small.config, KEY):  # the layers were pruned or factorized before
        record_structure(small)
    for place, kept_layer in enumerate(stack):
        for module in kept_layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = place  # type: ignore[assignment]
    return small
