"""DeBERTa-v2 and v3: BERT's blocks, whose attention also compares contents with distances.

To the products of queries and keys come those of a query with the key of a distance (`c2p`) and of
a key with the query of a distance (`p2c`), arXiv 2006.03654. Distances are those of the tokens in
the input, so they outlive drops.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, get_args

from quala.architecture import ELASTIC, ConfigFacts, Relative
from quala.errors import QualaError
from quala.models.families import Family, HeadActivation, SentenceHead, distances, float_product

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from quala.onnx_builder import GraphBuilder


def relative_of(hf: PreTrainedModel) -> Relative | None:
    """Return the relative positions of a model; None where the attention knows none."""
    return Relative.from_config(vars(hf.config))


@lru_cache(maxsize=8)
def _rows_by_distance(buckets: int, farthest: int, span: int, positions: int) -> Tensor:
    """Return the row of the table (2 positions - 1,) for the distances from 1 - positions on."""
    import torch
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    distances = torch.arange(1 - positions, positions)
    if buckets > 0:  # exact to buckets / 2, logarithmic beyond
        distances = make_log_bucket_position(distances, buckets, farthest).long()
    return (distances + span).clamp(0, 2 * span - 1)


@dataclass(frozen=True, kw_only=True)
class _DebertaV2(Family):
    """DeBERTa-v2; v3 differs in its sizes and options only."""

    def check(self, config: PreTrainedConfig) -> None:
        super().check(config)
        head_size = config.hidden_size // config.num_attention_heads
        for option, wanted, reason in (
            ("conv_kernel_size", 0, "the convolution reads neighbors, which drops change"),
            ("attention_head_size", head_size, "the heads share the hidden size"),
            ("embedding_size", config.hidden_size, "the embeddings are not projected"),
            ("pooler_hidden_size", config.hidden_size, "the head reads the hidden states"),
        ):
            got = getattr(config, option, wanted)
            if got != wanted:
                raise QualaError(f"`{option}` must be {wanted}, got {got}: {reason}.")
        if config.pooler_hidden_act not in get_args(HeadActivation):
            names = ", ".join(get_args(HeadActivation))
            raise QualaError(
                f"`pooler_hidden_act` must be one of {names}, got `{config.pooler_hidden_act}`."
            )
        if not (config.relative_attention or config.position_biased_input):
            raise QualaError(
                "`position_biased_input` must be true without `relative_attention`: the model "
                "would not know the order of its tokens."
            )

    def fixed(self, hf: PreTrainedModel) -> str:
        relative = relative_of(hf)
        if relative is None or relative.shared or not relative.products:
            return ""
        return "the heads of its distances have weights of their own (`share_att_key` false)"

    def places(self, hf: PreTrainedModel) -> bool:
        relative = relative_of(hf)
        return relative is not None and bool(relative.products)

    def scale(self, hf: PreTrainedModel, size: int) -> float:
        kinds = hf.config.pos_att_type or ()
        return float((size * (1 + ("c2p" in kinds) + ("p2c" in kinds))) ** -0.5)

    def relate(self, hf: PreTrainedModel, positions: Tensor) -> Tensor:
        """Return the row of the table of distances for each pair, (1 or B, 1, n, n)."""
        rows = self._rows(hf).to(positions.device)
        return rows[len(rows) // 2 - distances(positions)].unsqueeze(1)

    def bias(
        self, hf: PreTrainedModel, layer: int, query: Tensor, key: Tensor, positions: Tensor | None
    ) -> Tensor | None:
        if positions is None:
            return None
        keys, queries = self._of_distances(hf, layer)  # (heads, R, d) each
        index = positions.expand(*query.shape[:2], -1, -1)  # (B, heads, n, n)
        total: Tensor | None = None
        if keys is not None:
            total = (query @ keys.transpose(-1, -2)).gather(-1, index)
        if queries is not None:
            found = (queries @ key.transpose(-1, -2)).gather(-2, index)
            total = found if total is None else total + found
        return None if total is None else total * self.scale(hf, query.shape[-1])

    def relate_graph(self, g: GraphBuilder, hf: PreTrainedModel, positions: str) -> str:
        import numpy as np

        rows = self._rows(hf).numpy()
        of_query, of_key = (
            g("Unsqueeze", positions, g.constant(axes, np.int64)) for axes in ([1, 3], [1, 2])
        )
        distances = g("Sub", of_query, of_key)  # (1 or B, 1, n, n)
        places = g("Add", distances, g.constant(len(rows) // 2, np.int64))
        return g("Gather", g.constant(rows.astype(np.int32)), places)

    def bias_graph(
        self,
        g: GraphBuilder,
        hf: PreTrainedModel,
        layer: int,
        query: str,
        key: str,
        positions: str,
    ) -> str | None:
        import numpy as np
        import torch

        from quala.onnx_builder import Cut

        with torch.no_grad():
            keys, queries = self._of_distances(hf, layer)
        if keys is None and queries is None:
            return None
        elastic = getattr(hf.config, ELASTIC, None)
        cut = Cut(layer, "heads", axis=1) if elastic else None
        shape, zero, two = g("Shape", query), g.constant([0], np.int64), g.constant([2], np.int64)
        three = g.constant([3], np.int64)
        rows, tokens = g("Slice", shape, zero, three), g("Slice", shape, two, three)
        index = g("Expand", positions, g("Concat", rows, tokens, axis=0))  # (B, heads, n, n)
        total = None
        if keys is not None:
            columns = _array(keys.transpose(-1, -2))
            products = g("MatMul", query, g.constant(columns, cut=cut))  # (B, heads, n, R)
            total = g("GatherElements", products, index, axis=3)
        if queries is not None:  # the scale is in the query, which has no part in these
            scaled = _array(queries) * np.float32(self.scale(hf, queries.shape[-1]))
            turned = g("Transpose", key, perm=[0, 1, 3, 2])
            products = g("MatMul", g.constant(scaled, cut=cut), turned)  # (B, heads, R, n)
            found = g("GatherElements", products, index, axis=2)
            total = found if total is None else g("Add", total, found)
        return total

    def sentence_head(self, hf: PreTrainedModel) -> SentenceHead:
        parts: Any = hf
        activation: Any = hf.config.pooler_hidden_act
        pooler = parts.pooler
        return SentenceHead(
            pooler.dropout, pooler.dense, activation, parts.dropout, parts.classifier
        )

    def _rows(self, hf: PreTrainedModel) -> Tensor:
        config: Any = hf.config
        relative = relative_of(hf)
        assert relative is not None
        farthest = getattr(config, "max_relative_positions", -1)
        farthest = config.max_position_embeddings if farthest < 1 else farthest
        buckets = getattr(config, "position_buckets", -1)
        return _rows_by_distance(
            buckets, farthest, relative.rows // 2, config.max_position_embeddings
        )

    def _of_distances(
        self, hf: PreTrainedModel, layer: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the keys and the queries of all distances, each (heads, R, d) or None.

        They do not depend on the input. So a projection that is shared with the contents rounds
        its weight for them only; their range is another one than that of the hidden states.
        """
        import torch

        relative = relative_of(hf)
        assert relative is not None
        encoder: Any = hf.base_model.encoder
        attention = encoder.layer[layer].attention.self
        numbers = torch.arange(relative.rows, device=hf.device)
        rows = encoder.rel_embeddings(numbers)  # (R, H)
        if relative.normed:
            rows = encoder.LayerNorm(rows)
        rows = attention.pos_dropout(rows)
        size = hf.config.hidden_size // hf.config.num_attention_heads
        made: list[Tensor | None] = []
        for kind, shared, own in (
            ("c2p", "key_proj", "pos_key_proj"),
            ("p2c", "query_proj", "pos_query_proj"),
        ):
            if kind not in relative.products:
                made.append(None)
                continue
            linear: nn.Module = getattr(attention, shared if relative.shared else own)
            product = float_product(linear, rows) if relative.shared else linear(rows)
            made.append(product.unflatten(-1, (-1, size)).transpose(0, 1))
        return made[0], made[1]


def _array(constant: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = constant.unsqueeze(0).float().cpu().numpy()
    return array


DEBERTA_V2 = _DebertaV2(
    facts=ConfigFacts(disentangled=True),
    projections=("query_proj", "key_proj", "value_proj"),
)
