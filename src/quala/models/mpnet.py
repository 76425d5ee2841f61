"""MPNet: BERT's blocks, with a learned bias of the attention by the distance of two tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quala.architecture import ConfigFacts
from quala.models.families import Block, Family, distances

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from quala.onnx_builder import GraphBuilder

BUCKETS = 32
"""Rows of the table of biases; transformers' code has this number, whatever config.json says."""


@dataclass(frozen=True, kw_only=True)
class _MPNet(Family):
    """MPNet names its linear layers differently; all layers share the biases of their heads."""

    def embed(self, hf: PreTrainedModel, input_ids: Tensor, segment_ids: Tensor) -> Tensor:
        base: Any = hf.base_model
        hidden: Tensor = base.embeddings(input_ids=input_ids)
        return hidden

    def block(self, layer: nn.Module) -> Block:
        parts: Any = layer
        attention = parts.attention.attn
        return Block(
            query=attention.q,
            key=attention.k,
            value=attention.v,
            attention_dropout=attention.dropout,
            attention_out=attention.o,
            attention_out_dropout=parts.attention.dropout,
            attention_norm=parts.attention.LayerNorm,
            ffn_in=parts.intermediate.dense,
            activation=parts.intermediate.intermediate_act_fn,
            ffn_out=parts.output.dense,
            ffn_dropout=parts.output.dropout,
            ffn_norm=parts.output.LayerNorm,
        )

    def set_heads(self, layer: nn.Module, *, heads: int, size: int) -> None:
        """Do nothing: all heads stay."""

    def places(self, hf: PreTrainedModel) -> bool:
        return True

    def bias(
        self, hf: PreTrainedModel, layer: int, query: Tensor, key: Tensor, positions: Tensor | None
    ) -> Tensor:
        import torch.nn.functional as F

        assert positions is not None
        table = self._table(hf)
        farthest = len(table) // 2
        biases: Tensor = F.embedding(
            distances(positions) + farthest, table
        )  # (1 or B, n, n, heads)
        return biases.permute(0, 3, 1, 2).contiguous()

    def bias_graph(
        self,
        g: GraphBuilder,
        hf: PreTrainedModel,
        layer: int,
        query: str,
        key: str,
        positions: str,
    ) -> str:
        import numpy as np

        table = self._table(hf).detach().float().numpy()
        ahead, beside = (
            g("Unsqueeze", positions, g.constant([axis], np.int64)) for axis in (1, 2)
        )
        distance = g("Sub", ahead, beside)  # (B, n, n)
        place = g("Add", distance, g.constant(len(table) // 2, np.int64))
        name = "distance_bias"
        known = g.constant(table, name=name)
        return g("Transpose", g("Gather", known, place), perm=[0, 3, 1, 2])

    def _table(self, hf: PreTrainedModel) -> Tensor:
        """Return the biases by distance, from the longest back to the longest ahead, by head."""
        import torch

        encoder: Any = hf.base_model.encoder
        farthest = int(hf.config.max_position_embeddings)
        weight = encoder.relative_attention_bias.weight
        places = torch.arange(-farthest, farthest + 1, device=weight.device)
        buckets = encoder.relative_position_bucket(places, num_buckets=BUCKETS)
        return weight[buckets]  # type: ignore[no-any-return]


MPNET = _MPNet(
    facts=ConfigFacts(
        keys={
            "hidden": "hidden_size",
            "intermediate": "intermediate_size",
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "vocabulary": "vocab_size",
            "positions": "max_position_embeddings",
        },
        required={"relative_attention_num_buckets": BUCKETS},
        first_position=2,
        products_per_token=2,
        bias_rows=BUCKETS,
    ),
    float_parts=("relative_attention_bias",),
    fixed_heads="all layers of MPNet share a table of biases with a column for each head",
)
