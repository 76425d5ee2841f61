"""ALBERT: BERT's blocks, all with the same weights, after a narrow table of words (1909.11942)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quala.architecture import ConfigFacts
from quala.errors import QualaError
from quala.models.families import BERT, Block, Embeddings, Family, SentenceHead

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel


_SHARED = "all of them share one set of weights"


def _unchanged(hidden: Tensor) -> Tensor:
    return hidden


@dataclass(frozen=True, kw_only=True)
class _Albert(Family):
    """ALBERT of one group: what one layer learns or rounds, all do."""

    def check(self, config: PreTrainedConfig) -> None:
        super().check(config)
        for option in ("num_hidden_groups", "inner_group_num"):
            if (got := getattr(config, option)) != 1:
                raise QualaError(
                    f"`{option}` must be 1, got {got}: quala runs an ALBERT whose layers all "
                    "share one set of weights, as the published ones do."
                )

    def trained_with_types(self, config: PreTrainedConfig) -> bool:
        """Tell whether an older transformers saved it: its tokenizer gave types, that of 5 not."""
        version = config.transformers_version
        return version is None or int(version.partition(".")[0]) < 5

    def fixed(self, hf: PreTrainedModel) -> str:
        return _SHARED

    def check_width(self) -> None:
        raise QualaError(f"ALBERT's layers cannot be narrowed: {_SHARED}.")

    def check_shrink(self) -> None:
        raise QualaError(f"ALBERT's layers cannot be factorized or cut: {_SHARED}.")

    def embeddings(self, hf: PreTrainedModel) -> Embeddings:
        base: Any = hf.base_model
        parts = base.embeddings
        return Embeddings(
            words=parts.word_embeddings,
            positions=parts.position_embeddings,
            types=parts.token_type_embeddings,
            norm=parts.LayerNorm,
            projection=base.encoder.embedding_hidden_mapping_in,
            padding=None,
        )

    def embed(self, hf: PreTrainedModel, input_ids: Tensor, segment_ids: Tensor) -> Tensor:
        base: Any = hf.base_model
        hidden: Tensor = base.encoder.embedding_hidden_mapping_in(
            super().embed(hf, input_ids, segment_ids)
        )
        return hidden

    def layers(self, hf: PreTrainedModel) -> nn.ModuleList:
        """Return the one layer as often as it runs; leaving some out changes no model."""
        from torch import nn

        base: Any = hf.base_model
        layer = base.encoder.albert_layer_groups[0].albert_layers[0]
        return nn.ModuleList([layer] * int(hf.config.num_hidden_layers))

    def block(self, layer: nn.Module) -> Block:
        from torch import nn

        parts: Any = layer
        attention = parts.attention
        return Block(
            query=attention.query,
            key=attention.key,
            value=attention.value,
            attention_dropout=attention.attention_dropout,
            attention_out=attention.dense,
            attention_out_dropout=attention.output_dropout,
            attention_norm=attention.LayerNorm,
            ffn_in=parts.ffn,
            activation=parts.activation,
            ffn_out=parts.ffn_output,
            ffn_dropout=nn.Identity(),  # transformers makes one and never applies it
            ffn_norm=parts.full_layer_layer_norm,
        )

    def sentence_head(self, hf: PreTrainedModel) -> SentenceHead:
        parts: Any = hf
        dense = parts.base_model.pooler
        return SentenceHead(_unchanged, dense, "tanh", parts.dropout, parts.classifier)


ALBERT = _Albert(
    facts=ConfigFacts(
        keys={**BERT.facts.keys, "embedding": "embedding_size"},
        shared_layers=True,
        projected=True,
    )
)
