"""Linear and embedding layers of low rank: two real, smaller matrices in the place of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from quala.architecture import DENSE, KEY, LINEARS, WHOLE, LayerSizes, Structure
from quala.compress.prune.sparse import FILE, dense_state, is_sparse
from quala.compress.quantize.split import Split
from quala.errors import QualaError
from quala.models.families import family_of


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return U sqrt(S) (m, rank) and sqrt(S) V^T (rank, n), the closest product to `matrix`.

    Closest in the Frobenius norm (Eckart-Young); the singular values are shared evenly, so that
    both factors have weights of one size. Half precision is decomposed in float32.

    Raises:
        QualaError: for a rank outside 1 to min(m, n).
    """
    most = min(matrix.shape)
    if not 1 <= rank <= most:
        raise QualaError(f"`rank` must be 1 to {most}, got {rank}.")
    wide = matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32))
    left, values, right = torch.linalg.svd(wide, full_matrices=False)
    root = values[:rank].sqrt()  # (rank,)
    first, second = left[:, :rank] * root, root[:, None] * right[:rank]
    return first.to(matrix.dtype).contiguous(), second.to(matrix.dtype).contiguous()


class FactorizedLinear(nn.Module):
    """y = (x down^T) up^T + bias, with `down` (rank, in) and `up` (out, rank) plain linear layers.

    Raises:
        QualaError: for a rank below 1.
    """

    def __init__(
        self, in_features: int, out_features: int, rank: int, *, bias: bool = True
    ) -> None:
        super().__init__()
        if rank < 1:
            raise QualaError(f"`rank` must be 1 or more, got {rank}.")
        self.down = nn.Linear(in_features, rank, bias=False)
        self.up = nn.Linear(rank, out_features, bias=bias)

    @classmethod
    def from_linear(cls, linear: nn.Linear | FactorizedLinear, rank: int) -> Self:
        """Return the truncated SVD of `linear`, which may be factorized already.

        Raises:
            QualaError: for a rank outside 1 to the smaller side of the matrix.
        """
        if isinstance(linear, FactorizedLinear):
            weight, bias = linear.dense_weight(), linear.up.bias
        else:
            weight, bias = linear.weight, linear.bias
        up, down = truncated_svd(weight, rank)
        with torch.device("meta"):
            layer = cls(weight.shape[1], weight.shape[0], rank, bias=bias is not None)
        trains = weight.requires_grad
        layer.down.weight = nn.Parameter(down, requires_grad=trains)
        layer.up.weight = nn.Parameter(up, requires_grad=trains)
        if bias is not None:
            layer.up.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
        return layer.train(linear.training)

    @property
    def in_features(self) -> int:
        """Number of inputs."""
        return self.down.in_features

    @property
    def out_features(self) -> int:
        """Number of outputs."""
        return self.up.out_features

    @property
    def rank(self) -> int:
        """Width between the two factors."""
        return self.down.out_features

    def dense_weight(self) -> Tensor:
        """Return the matrix (out, in) that the factors stand for."""
        return self.up.weight @ self.down.weight

    def forward(self, input: Tensor) -> Tensor:
        product: Tensor = self.up(self.down(input))
        return product


class FactorizedEmbedding(nn.Module):
    """Rows of a narrow `table` (rows, rank), widened by the linear layer `up` (width, rank).

    Raises:
        QualaError: for a rank below 1.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, rank: int, *, padding_idx: int | None = None
    ) -> None:
        super().__init__()
        if rank < 1:
            raise QualaError(f"`rank` must be 1 or more, got {rank}.")
        self.table = nn.Embedding(num_embeddings, rank, padding_idx=padding_idx)
        self.up = nn.Linear(rank, embedding_dim, bias=False)

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding | FactorizedEmbedding, rank: int) -> Self:
        """Return the truncated SVD of `embedding`, which may be factorized already.

        Raises:
            QualaError: for a rank outside 1 to the smaller side of the table.
        """
        if isinstance(embedding, FactorizedEmbedding):
            weight, padding = embedding.dense_weight(), embedding.table.padding_idx
        else:
            weight, padding = embedding.weight, embedding.padding_idx
        table, widen = truncated_svd(weight, rank)
        with torch.device("meta"):
            layer = cls(weight.shape[0], weight.shape[1], rank, padding_idx=padding)
        trains = weight.requires_grad
        layer.table.weight = nn.Parameter(table, requires_grad=trains)
        layer.up.weight = nn.Parameter(widen.T.contiguous(), requires_grad=trains)
        return layer.train(embedding.training)

    @property
    def num_embeddings(self) -> int:
        """Number of rows."""
        return self.table.num_embeddings

    @property
    def embedding_dim(self) -> int:
        """Width of a row after `up`."""
        return self.up.out_features

    @property
    def rank(self) -> int:
        """Width of the table."""
        return self.table.embedding_dim

    def dense_weight(self) -> Tensor:
        """Return the table (rows, width) that the factors stand for."""
        return self.table.weight @ self.up.weight.T

    def forward(self, input: Tensor) -> Tensor:
        rows: Tensor = self.up(self.table(input))
        return rows


_Model = TypeVar("_Model", bound=PreTrainedModel)
AnyLinear = nn.Linear | FactorizedLinear
AnyEmbedding = nn.Embedding | FactorizedEmbedding


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
    words = family_of(hf).embeddings(hf).words
    found: str = next(name for name, module in hf.named_modules() if module is words)
    return found


def float_linear(hf: PreTrainedModel, name: str) -> AnyLinear:
    """Return a linear layer, dense or factorized. Raises QualaError for a quantized one."""
    module = hf.get_submodule(name)
    if type(module) not in (nn.Linear, FactorizedLinear):
        raise QualaError(
            f"`{name}` is a {type(module).__name__}; change the structure before quantizing."
        )
    return cast("AnyLinear", module)


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
        setattr(hf.config, family_of(hf).facts.keys["intermediate"], widths.pop())
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
    """Give a freshly initialized `hf`, in place, the sizes that its config records.

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
            made = FactorizedLinear(inputs, outputs, rank) if rank else nn.Linear(inputs, outputs)
            hf.set_submodule(layer[part], made)
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
    return module.rank if isinstance(module, FactorizedLinear | FactorizedEmbedding) else 0


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
