"""What differs between model families: their config.json, embeddings, layers and heads.

Importing this module imports neither torch nor transformers: cost and planning read `facts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from quala.architecture import ConfigFacts
from quala.errors import QualaError
from quala.plugins import FAMILIES

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from quala.onnx_builder import GraphBuilder


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The modules below the encoder: three tables whose rows are summed, then normalized."""

    words: nn.Module
    positions: nn.Module | None
    """None where the attention alone knows the places of tokens."""
    types: nn.Module | None
    norm: nn.Module
    projection: nn.Module | None
    """The linear layer to the encoder's width, after the norm."""
    padding: int | None
    """The padding id after which positions begin; None where the first position is 0."""


@dataclass(frozen=True, slots=True)
class Block:
    """The modules of one encoder layer, in the order of the data."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    attention_dropout: nn.Dropout
    attention_out: nn.Module
    attention_out_dropout: Callable[[Tensor], Tensor]
    attention_norm: nn.Module
    ffn_in: nn.Module
    activation: nn.Module
    ffn_out: nn.Module
    ffn_dropout: nn.Module
    ffn_norm: nn.Module
    norms_first: bool = False
    """Whether the two norms come before the attention and the feed-forward (pre-LayerNorm) rather
    than after the sums with what went in."""


def _unchanged(hidden: Tensor) -> Tensor:
    return hidden


HeadActivation = Literal["gelu", "relu", "tanh"]


@dataclass(frozen=True, slots=True)
class SentenceHead:
    """The parts of a classification head, in the order of the data."""

    first_dropout: Callable[[Tensor], Tensor]
    dense: nn.Module
    activation: HeadActivation
    dropout: Callable[[Tensor], Tensor]
    out: nn.Module
    norm: nn.Module | None = None
    """After the activation."""
    before: nn.Module | None = None
    """A norm of the hidden states, where the layers end without one."""
    mean: bool = False
    """Whether the head reads the mean of the tokens left; otherwise the first one."""


@dataclass(frozen=True, slots=True)
class TokenHead:
    """The parts of a head on each token, in the order of the data; most have the last alone."""

    out: nn.Module
    dropout: Callable[[Tensor], Tensor] = _unchanged
    before: nn.Module | None = None
    """A norm of the hidden states, where the layers end without one."""
    dense: nn.Module | None = None
    activation: HeadActivation = "gelu"
    """After `dense`, where there is one."""
    norm: nn.Module | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model family with BERT's modules; a subclass overrides the methods that differ.

    The modules are looked up at each call, so that compression can replace them.
    """

    facts: ConfigFacts = field(default_factory=ConfigFacts)
    head_parts: tuple[str, ...] = ("qa_outputs", "classifier", "pooler")
    """Modules that the checkpoint of a bare encoder may lack: the heads."""
    trained_parts: tuple[str, ...] = ("pooler",)
    """Those of them that a new head keeps, because they were trained with the encoder."""
    pooler: bool = False
    """The classification head reads the encoder's pooler; it has no hidden layer of its own."""
    head_activation: HeadActivation = "tanh"
    """The activation after the hidden layer of the classification head."""
    float_parts: tuple[str, ...] = ()
    """Small modules of the encoder that quantizing leaves in float."""
    fixed_heads: str = ""
    """Why no attention head can be removed; empty where it can."""
    projections: tuple[str, str, str] = ("query", "key", "value")
    """Names of these linear layers in the attention."""

    def check(self, config: PreTrainedConfig) -> None:
        """Raise QualaError for a config.json that asks for what the layers of this family lack."""
        kind = getattr(config, "position_embedding_type", None) or "absolute"
        if kind != "absolute":
            raise QualaError(
                f"`position_embedding_type` must be `absolute`, got `{kind}`: the attention would "
                "ignore the relative positions."
            )
        if getattr(config, "is_decoder", False):
            raise QualaError("`is_decoder` must be false, got true: quala runs encoders only.")

    def embeddings(self, hf: PreTrainedModel) -> Embeddings:
        """Return the modules below the encoder."""
        base: Any = hf.base_model
        parts = base.embeddings
        return Embeddings(
            words=parts.word_embeddings,
            positions=parts.position_embeddings,
            types=getattr(parts, "token_type_embeddings", None),
            norm=parts.LayerNorm,
            projection=getattr(base, "embeddings_project", None),
            padding=int(parts.padding_idx) if self.facts.first_position else None,
        )

    def embed(self, hf: PreTrainedModel, input_ids: Tensor, segment_ids: Tensor) -> Tensor:
        """Return the embeddings (B, n, H) of token ids and segments, both (B, n)."""
        base: Any = hf.base_model
        several = getattr(hf.config, "type_vocab_size", 0) > 1
        types = {"token_type_ids": segment_ids} if several else {}
        hidden: Tensor = base.embeddings(input_ids=input_ids, **types)
        if hasattr(base, "embeddings_project"):
            hidden = base.embeddings_project(hidden)
        return hidden

    def layers(self, hf: PreTrainedModel) -> nn.ModuleList:
        """Return the encoder's layers."""
        base: Any = hf.base_model
        layers: nn.ModuleList = base.encoder.layer
        return layers

    def block(self, layer: nn.Module) -> Block:
        """Return the modules of one layer."""
        parts: Any = layer
        attention = parts.attention.self
        query, key, value = (getattr(attention, name) for name in self.projections)
        return Block(
            query=query,
            key=key,
            value=value,
            attention_dropout=attention.dropout,
            attention_out=parts.attention.output.dense,
            attention_out_dropout=parts.attention.output.dropout,
            attention_norm=parts.attention.output.LayerNorm,
            ffn_in=parts.intermediate.dense,
            activation=parts.intermediate.intermediate_act_fn,
            ffn_out=parts.output.dense,
            ffn_dropout=parts.output.dropout,
            ffn_norm=parts.output.LayerNorm,
        )

    def places(self, hf: PreTrainedModel) -> bool:
        """Tell whether `place` or `bias` need the places of the tokens in the input."""
        return False

    def relate(self, hf: PreTrainedModel, positions: Tensor) -> Any:
        """Return what `place` and `bias` read of the places (B, n) as their `positions`.

        It is made once for all layers until tokens drop.
        """
        return positions

    def relate_graph(self, g: GraphBuilder, hf: PreTrainedModel, positions: str) -> str:
        """Add the nodes of `relate`; without drops there is one row of places for all examples."""
        return positions

    def trained_with_types(self, config: PreTrainedConfig) -> bool:
        """Tell whether a checkpoint knows both token types, whatever its tokenizer gives now."""
        return False

    def fixed(self, hf: PreTrainedModel) -> str:
        """Tell why the sizes of the layers cannot be changed; empty where they can."""
        return ""

    def scale(self, hf: PreTrainedModel, size: int) -> float:
        """Return the factor of the products of queries and keys in heads of this size."""
        return float(size**-0.5)

    def project(self, block: Block, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key and value, each (B, n, heads d)."""
        if self.facts.packed:
            query, key, value = block.query(hidden).chunk(3, dim=-1)
            return query, key, value
        return block.query(hidden), block.key(hidden), block.value(hidden)

    def place(
        self, hf: PreTrainedModel, layer: int, query: Tensor, key: Tensor, positions: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return query and key, each (B, heads, n, d), with the places (B, n) of their tokens."""
        return query, key

    def bias(
        self, hf: PreTrainedModel, layer: int, query: Tensor, key: Tensor, positions: Tensor | None
    ) -> Tensor | None:
        """Return what is added to the scaled products: (1 or B, 1 or heads, n, n), or None."""
        return None

    def place_graph(
        self,
        g: GraphBuilder,
        hf: PreTrainedModel,
        layer: int,
        query: str,
        key: str,
        positions: str,
    ) -> tuple[str, str]:
        """Add the nodes of `place`; the query is scaled already."""
        return query, key

    def bias_graph(
        self,
        g: GraphBuilder,
        hf: PreTrainedModel,
        layer: int,
        query: str,
        key: str,
        positions: str,
    ) -> str | None:
        """Add the nodes of `bias`; the query is scaled already."""
        return None

    def feed(self, block: Block, hidden: Tensor) -> Tensor:
        """Return the feed-forward of each token, without norms, (B, n, H)."""
        fed: Tensor = block.ffn_dropout(block.ffn_out(block.activation(block.ffn_in(hidden))))
        return fed

    def set_heads(self, layer: nn.Module, *, heads: int, size: int) -> None:
        """Correct the numbers of heads and outputs in the attention that pruning has changed."""
        attention: Any = layer.get_submodule("attention.self")
        attention.num_attention_heads, attention.all_head_size = heads, heads * size

    def set_dropout(
        self, hf: PreTrainedModel, *, hidden: float | None, attention: float | None
    ) -> None:
        """Replace the dropout rates of the modules; None keeps them."""
        from torch import nn

        inside = {self.block(layer).attention_dropout for layer in self.layers(hf)}
        for module in hf.modules():
            if isinstance(module, nn.Dropout):
                rate = attention if module in inside else hidden
                module.p = module.p if rate is None else rate

    def check_width(self) -> None:
        """Raise QualaError where no head can be removed."""
        if self.fixed_heads:
            raise QualaError(
                f"Heads of the attention (`width`) cannot be removed: {self.fixed_heads}."
            )

    def check_shrink(self) -> None:
        """Raise QualaError where the layers cannot be factorized and pruned."""

    def check_layers(self, layers: Sequence[int]) -> None:
        """Raise QualaError for layers that cannot be kept without the others."""

    def set_layers(self, config: PreTrainedConfig, layers: Sequence[int]) -> None:
        """Write into a config that only these layers are left."""
        setattr(config, self.facts.keys["layers"], len(layers))

    def last_norm(self, hf: PreTrainedModel) -> nn.Module | None:
        """Return the norm after the layers, where they end without one."""
        base: Any = hf.base_model
        return getattr(base, "final_norm", None)

    def token_head(self, hf: PreTrainedModel) -> TokenHead:
        """Return the parts of the head that is applied to each token."""
        parts: Any = hf
        if hasattr(parts, "qa_outputs"):
            return TokenHead(parts.qa_outputs)
        return TokenHead(parts.classifier, dropout=parts.dropout)

    def tokens(self, hf: PreTrainedModel, hidden: Tensor) -> Tensor:
        """Apply the head to each token: (B, n, H) to (B, n, outputs)."""
        head = self.token_head(hf)
        if head.before is not None:
            hidden = head.before(hidden)
        if head.dense is not None:
            hidden = _activated(head.activation, head.dense(hidden))
        if head.norm is not None:
            hidden = head.norm(hidden)
        logits: Tensor = head.out(head.dropout(hidden))
        return logits

    def sentence_head(self, hf: PreTrainedModel) -> SentenceHead:
        """Return the parts of the classification head."""
        parts: Any = hf
        head = parts.classifier
        if self.pooler:
            dense = parts.base_model.pooler.dense
            return SentenceHead(_unchanged, dense, self.head_activation, parts.dropout, head)
        return SentenceHead(
            head.dropout, head.dense, self.head_activation, head.dropout, head.out_proj
        )

    def sentence(self, hf: PreTrainedModel, hidden: Tensor, valid: Tensor | None) -> Tensor:
        """Apply the classification head: (B, n, H), real tokens (B, n), to (B, outputs)."""
        head = self.sentence_head(hf)
        if head.before is not None:
            hidden = head.before(hidden)
        pooled = mean_of(hidden, valid) if head.mean else hidden[:, 0]  # (B, H)
        pooled = _activated(head.activation, head.dense(head.first_dropout(pooled)))
        if head.norm is not None:
            pooled = head.norm(pooled)
        logits: Tensor = head.out(head.dropout(pooled))
        return logits


def float_product(linear: nn.Module, rows: Tensor) -> Tensor:
    """Apply a linear layer to rows that stay float, even where it rounds its inputs."""
    product: Tensor = getattr(linear, "float_product", linear)(rows)
    return product


def distances(positions: Tensor) -> Tensor:
    """Return how far each key is after each query, (B, n, n), of places (B, n).

    (1, n, n) where nothing is dropped, for then all examples have the same places.
    """
    if positions.stride(0) == 0:
        positions = positions[:1]
    return positions[:, None, :] - positions[:, :, None]


def mean_of(hidden: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean (B, H) of the real tokens; all are, where `valid` (B, n) is None."""
    if valid is None:
        return hidden.mean(dim=1)
    return sum_of(hidden, valid) / valid.sum(dim=1, keepdim=True)


def sum_of(hidden: Tensor, valid: Tensor | None) -> Tensor:
    """Return the sum (B, H) of the real tokens; all are, where `valid` (B, n) is None."""
    if valid is None:
        return hidden.sum(dim=1)
    return (hidden * valid.unsqueeze(-1).to(hidden.dtype)).sum(dim=1)


def _activated(name: HeadActivation, hidden: Tensor) -> Tensor:
    import torch

    functions = {"gelu": torch.nn.functional.gelu, "relu": torch.relu, "tanh": torch.tanh}
    return functions[name](hidden)


@dataclass(frozen=True, kw_only=True)
class _DistilBert(Family):
    """DistilBERT names its modules differently, and has dropout before both heads."""

    def layers(self, hf: PreTrainedModel) -> nn.ModuleList:
        base: Any = hf.base_model
        layers: nn.ModuleList = base.transformer.layer
        return layers

    def block(self, layer: nn.Module) -> Block:
        parts: Any = layer
        attention = parts.attention
        return Block(
            query=attention.q_lin,
            key=attention.k_lin,
            value=attention.v_lin,
            attention_dropout=attention.dropout,
            attention_out=attention.out_lin,
            attention_out_dropout=_unchanged,
            attention_norm=parts.sa_layer_norm,
            ffn_in=parts.ffn.lin1,
            activation=parts.ffn.activation,
            ffn_out=parts.ffn.lin2,
            ffn_dropout=parts.ffn.dropout,
            ffn_norm=parts.output_layer_norm,
        )

    def set_heads(self, layer: nn.Module, *, heads: int, size: int) -> None:
        attention: Any = layer.get_submodule("attention")
        attention.n_heads = heads

    def token_head(self, hf: PreTrainedModel) -> TokenHead:
        parts: Any = hf
        out = parts.qa_outputs if hasattr(parts, "qa_outputs") else parts.classifier
        return TokenHead(out, dropout=parts.dropout)

    def sentence_head(self, hf: PreTrainedModel) -> SentenceHead:
        parts: Any = hf
        return SentenceHead(
            _unchanged, parts.pre_classifier, self.head_activation, parts.dropout, parts.classifier
        )


BERT = Family(pooler=True)
ROBERTA = Family(facts=ConfigFacts(first_position=2, products_per_token=2))
ELECTRA = Family(
    facts=ConfigFacts(keys={**BERT.facts.keys, "embedding": "embedding_size"}),
    head_activation="gelu",
)
DISTILBERT = _DistilBert(
    facts=ConfigFacts(
        keys={
            "hidden": "dim",
            "intermediate": "hidden_dim",
            "layers": "n_layers",
            "heads": "n_heads",
            "vocabulary": "vocab_size",
            "positions": "max_position_embeddings",
        },
        hidden_dropout="dropout",
        attention_dropout="attention_dropout",
        products_per_token=0,
    ),
    head_parts=("qa_outputs", "classifier", "pre_classifier"),
    head_activation="relu",
)


def match_token_types(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Leave a model one token type, in place, where its tokenizer gives no second one.

    It was never trained with another. Raises QualaError as `gives_token_types`.
    """
    from torch import nn

    from quala.data.tokenize import gives_token_types

    family = family_of(hf)
    types: Any = family.embeddings(hf).types
    if types is None or hf.config.type_vocab_size < 2 or family.trained_with_types(hf.config):
        return
    if gives_token_types(tokenizer):
        return
    base: Any = hf.base_model
    first = types.weight.detach()[:1].clone()
    base.embeddings.token_type_embeddings = nn.Embedding.from_pretrained(first, freeze=False)
    hf.config.type_vocab_size = 1


def drop_pooler(hf: PreTrainedModel) -> None:
    """Take the pooler from a model without a head, in place: nothing reads it."""
    model: Any = hf
    if hasattr(model, "pooler"):
        model.pooler = None


def family_of(hf: PreTrainedModel) -> Family:
    """Return the family of a model. Raises QualaError for an unsupported `model_type`."""
    family: Family = FAMILIES.find(hf.config.model_type)
    return family
