"""Where each model family keeps its parts: embeddings, the modules of a layer, the heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from quala.errors import unknown


@dataclass(frozen=True, slots=True)
class Block:
    """The modules of one post-LayerNorm encoder layer, in the order of the data."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    attention_dropout: nn.Dropout
    attention_out: nn.Module
    attention_out_dropout: nn.Module
    attention_norm: nn.Module
    ffn_in: nn.Module
    activation: nn.Module
    ffn_out: nn.Module
    ffn_dropout: nn.Module
    ffn_norm: nn.Module


class Family(Protocol):
    """Find the parts of a model; always asked at call time, so that modules can be replaced."""

    def embed(self, hf: PreTrainedModel, input_ids: Tensor, segment_ids: Tensor) -> Tensor:
        """Return the embeddings (B, n, H) of token ids and segments, both (B, n)."""

    def layers(self, hf: PreTrainedModel) -> nn.ModuleList:
        """Return the encoder's layers."""

    def block(self, layer: nn.Module) -> Block:
        """Return the modules of one layer."""

    def span(self, hf: PreTrainedModel, hidden: Tensor) -> Tensor:
        """Apply the span head to each token: (B, n, H) to (B, n, outputs)."""

    def sentence(self, hf: PreTrainedModel, hidden: Tensor) -> Tensor:
        """Apply the classification head to the first token: (B, n, H) to (B, outputs)."""


def _base(hf: PreTrainedModel) -> Any:
    return getattr(hf, hf.base_model_prefix)


@dataclass(frozen=True, slots=True)
class BertFamily:
    """BERT, RoBERTa, XLM-RoBERTa and ELECTRA, which name their parts alike.

    `pooler`: the classification head reads the encoder's pooler (BERT) instead of having a
    hidden layer of its own.
    """

    pooler: bool = False

    def embed(self, hf: PreTrainedModel, input_ids: Tensor, segment_ids: Tensor) -> Tensor:
        base = _base(hf)
        segments = segment_ids if hf.config.type_vocab_size > 1 else None
        hidden: Tensor = base.embeddings(input_ids=input_ids, token_type_ids=segments)
        if hasattr(base, "embeddings_project"):
            hidden = base.embeddings_project(hidden)
        return hidden

    def layers(self, hf: PreTrainedModel) -> nn.ModuleList:
        layers: nn.ModuleList = _base(hf).encoder.layer
        return layers

    def block(self, layer: nn.Module) -> Block:
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

    def span(self, hf: PreTrainedModel, hidden: Tensor) -> Tensor:
        parts: Any = hf
        logits: Tensor = parts.qa_outputs(hidden)
        return logits

    def sentence(self, hf: PreTrainedModel, hidden: Tensor) -> Tensor:
        parts: Any = hf
        if self.pooler:
            hidden = parts.dropout(_base(hf).pooler(hidden))
        logits: Tensor = parts.classifier(hidden)
        return logits


@dataclass(frozen=True, slots=True)
class DistilBertFamily:
    """DistilBERT: no segments, and dropout before both heads."""

    def embed(self, hf: PreTrainedModel, input_ids: Tensor, segment_ids: Tensor) -> Tensor:
        hidden: Tensor = _base(hf).embeddings(input_ids)
        return hidden

    def layers(self, hf: PreTrainedModel) -> nn.ModuleList:
        layers: nn.ModuleList = _base(hf).transformer.layer
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
            attention_out_dropout=nn.Identity(),
            attention_norm=parts.sa_layer_norm,
            ffn_in=parts.ffn.lin1,
            activation=parts.ffn.activation,
            ffn_out=parts.ffn.lin2,
            ffn_dropout=parts.ffn.dropout,
            ffn_norm=parts.output_layer_norm,
        )

    def span(self, hf: PreTrainedModel, hidden: Tensor) -> Tensor:
        parts: Any = hf
        logits: Tensor = parts.qa_outputs(parts.dropout(hidden))
        return logits

    def sentence(self, hf: PreTrainedModel, hidden: Tensor) -> Tensor:
        parts: Any = hf
        pooled = torch.relu(parts.pre_classifier(hidden[:, 0]))  # (B, H)
        logits: Tensor = parts.classifier(parts.dropout(pooled))
        return logits


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "bert": BertFamily(pooler=True),
        "roberta": BertFamily(),
        "xlm-roberta": BertFamily(),
        "electra": BertFamily(),
        "distilbert": DistilBertFamily(),
    }
)


def family_of(hf: PreTrainedModel) -> Family:
    """Return the adapter for a model. Raises QualaError for an unsupported `model_type`."""
    name = hf.config.model_type
    if name not in FAMILIES:
        raise unknown("`model_type`", name, FAMILIES)
    return FAMILIES[name]
