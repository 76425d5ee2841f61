"""What differs between model families: their config.json, embeddings, layers and heads.

Importing this module imports neither torch nor transformers: cost and planning read `facts`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from quala.architecture import ConfigFacts
from quala.errors import QualaError
from quala.plugins import FAMILIES

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The modules below the encoder: three tables whose rows are summed, then normalized."""

    words: nn.Module
    positions: nn.Module
    types: nn.Module | None
    norm: nn.Module
    projection: nn.Module | None
    """The linear layer to the encoder's width, after the norm."""
    padding: int | None
    """The padding id after which positions begin; None where the first position is 0."""


@dataclass(frozen=True, slots=True)
class Block:
    """The modules of one post-LayerNorm encoder layer, in the order of the data."""

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


@dataclass(frozen=True, slots=True)
class SentenceHead:
    """The parts of a classification head on the first token, in the order of the data."""

    first_dropout: Callable[[Tensor], Tensor]
    dense: nn.Module
    activation: Literal["gelu", "relu", "tanh"]
    dropout: Callable[[Tensor], Tensor]
    out: nn.Module


def _unchanged(hidden: Tensor) -> Tensor:
    return hidden


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model family with BERT's modules; a subclass overrides the methods that differ.

    The modules are looked up at each call, so that compression can replace them.
    """

    facts: ConfigFacts = field(default_factory=ConfigFacts)
    head_parts: tuple[str, ...] = ("qa_outputs", "classifier", "pooler")
    """Modules that the checkpoint of a bare encoder may lack: the heads."""
    pooler: bool = False
    """The classification head reads the encoder's pooler; it has no hidden layer of its own."""
    head_activation: Literal["gelu", "relu", "tanh"] = "tanh"
    """The activation after the hidden layer of the classification head."""

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
        return Block(
            query=attention.query,
            key=attention.key,
            value=attention.value,
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

    def set_heads(self, layer: nn.Module, *, heads: int, size: int) -> None:
        """Correct the numbers of heads and outputs in the attention that pruning has changed."""
        attention: Any = layer.get_submodule("attention.self")
        attention.num_attention_heads, attention.all_head_size = heads, heads * size

    def span_head(self, hf: PreTrainedModel) -> nn.Module:
        """Return the linear layer that is applied to each token."""
        parts: Any = hf
        head: nn.Module = parts.qa_outputs
        return head

    def span(self, hf: PreTrainedModel, hidden: Tensor) -> Tensor:
        """Apply the span head to each token: (B, n, H) to (B, n, outputs)."""
        logits: Tensor = self.span_head(hf)(hidden)
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

    def sentence(self, hf: PreTrainedModel, hidden: Tensor) -> Tensor:
        """Apply the classification head to the first token: (B, n, H) to (B, outputs)."""
        import torch

        head = self.sentence_head(hf)
        pooled = head.dense(head.first_dropout(hidden[:, 0]))  # (B, H)
        functions = {"gelu": torch.nn.functional.gelu, "relu": torch.relu, "tanh": torch.tanh}
        logits: Tensor = head.out(head.dropout(functions[head.activation](pooled)))
        return logits


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

    def span(self, hf: PreTrainedModel, hidden: Tensor) -> Tensor:
        parts: Any = hf
        logits: Tensor = self.span_head(hf)(parts.dropout(hidden))
        return logits

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

    types: Any = family_of(hf).embeddings(hf).types
    if types is None or hf.config.type_vocab_size < 2 or gives_token_types(tokenizer):
        return
    base: Any = hf.base_model
    first = types.weight.detach()[:1].clone()
    base.embeddings.token_type_embeddings = nn.Embedding.from_pretrained(first, freeze=False)
    hf.config.type_vocab_size = 1


def family_of(hf: PreTrainedModel) -> Family:
    """Return the family of a model. Raises QualaError for an unsupported `model_type`."""
    family: Family = FAMILIES.find(hf.config.model_type)
    return family
