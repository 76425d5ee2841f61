"""ModernBERT: norms first, rotated queries and keys, gated feed-forward, most attention local."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from quala.architecture import ConfigFacts
from quala.errors import QualaError
from quala.models.families import (
    Block,
    Embeddings,
    Family,
    HeadActivation,
    SentenceHead,
    TokenHead,
    distances,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from quala.onnx_builder import GraphBuilder

FAR = -1.0e30
"""Added to the products of tokens outside each other's window: far below any product, and far
above what is added for padding, so that a row of padding has no place but real tokens."""


@dataclass(frozen=True, kw_only=True)
class _ModernBert(Family):
    """Queries, keys and values are one matrix, and no layer or norm has a bias."""

    def check(self, config: PreTrainedConfig) -> None:
        super().check(config)
        kinds = {one["rope_type"] for one in config.rope_parameters.values() if one}
        if kinds - {"default"}:
            raise QualaError(f"`rope_type` must be `default`, got {', '.join(sorted(kinds))}.")
        known = get_args(HeadActivation)
        if config.classifier_activation not in known:
            raise QualaError(
                f"`classifier_activation` must be {', '.join(known)}, got "
                f"`{config.classifier_activation}`."
            )

    def embeddings(self, hf: PreTrainedModel) -> Embeddings:
        base: Any = hf.base_model
        parts = base.embeddings
        return Embeddings(parts.tok_embeddings, None, None, parts.norm, None, None)

    def embed(self, hf: PreTrainedModel, input_ids: Tensor, segment_ids: Tensor) -> Tensor:
        base: Any = hf.base_model
        hidden: Tensor = base.embeddings(input_ids=input_ids)
        return hidden

    def layers(self, hf: PreTrainedModel) -> nn.ModuleList:
        base: Any = hf.base_model
        layers: nn.ModuleList = base.layers
        return layers

    def block(self, layer: nn.Module) -> Block:
        from torch import nn

        parts: Any = layer
        attention, mlp = parts.attn, parts.mlp
        return Block(
            query=attention.Wqkv,
            key=attention.Wqkv,
            value=attention.Wqkv,
            attention_dropout=nn.Dropout(attention.attention_dropout).train(attention.training),
            attention_out=attention.Wo,
            attention_out_dropout=attention.out_drop,
            attention_norm=parts.attn_norm,
            ffn_in=mlp.Wi,
            activation=mlp.act,
            ffn_out=mlp.Wo,
            ffn_dropout=mlp.drop,
            ffn_norm=parts.mlp_norm,
            norms_first=True,
        )

    def feed(self, block: Block, hidden: Tensor) -> Tensor:
        inner, gate = block.ffn_in(hidden).chunk(2, dim=-1)
        fed: Tensor = block.ffn_out(block.ffn_dropout(block.activation(inner) * gate))
        return fed

    def set_heads(self, layer: nn.Module, *, heads: int, size: int) -> None:
        """Do nothing: transformers reads the number of heads off the matrix."""

    def set_dropout(
        self, hf: PreTrainedModel, *, hidden: float | None, attention: float | None
    ) -> None:
        from torch import nn

        after = []
        for layer in self.layers(hf):
            part: Any = layer.get_submodule("attn")
            if attention is not None:
                part.attention_dropout, part.out_drop = attention, nn.Dropout(attention)
            after.append(part.out_drop)
        for module in hf.modules():
            if isinstance(module, nn.Dropout) and module not in after and hidden is not None:
                module.p = hidden

    def check_layers(self, layers: Sequence[int]) -> None:
        if layers[0] != 0:
            raise QualaError(
                "The first layer of ModernBERT has no norm before its attention, so it must stay "
                f"the first: `keep` or `keep_map` must keep layer 0, got layers "
                f"{', '.join(map(str, layers))}."
            )

    def set_layers(self, config: PreTrainedConfig, layers: Sequence[int]) -> None:
        super().set_layers(config, layers)
        config.layer_types = [config.layer_types[layer] for layer in layers]

    def places(self, hf: PreTrainedModel) -> bool:
        return True

    def place(
        self, hf: PreTrainedModel, layer: int, query: Tensor, key: Tensor, positions: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        import torch

        assert positions is not None
        wide = torch.promote_types(query.dtype, torch.float32)
        turns = positions[..., None].float() * self._speeds(hf, layer).float()  # (B, n, d / 2)
        turns = torch.cat([turns, turns], dim=-1).unsqueeze(1)  # (B, 1, n, d)
        cosine, sine = turns.cos().to(wide), turns.sin().to(wide)
        first, second = (_turned(rows.to(wide), cosine, sine) for rows in (query, key))
        return first.to(query.dtype), second.to(key.dtype)

    def bias(
        self, hf: PreTrainedModel, layer: int, query: Tensor, key: Tensor, positions: Tensor | None
    ) -> Tensor | None:
        assert positions is not None
        window = self._window(hf, layer)
        whole = positions.stride(0) == 0  # nothing is dropped
        if window is None or (whole and positions.shape[1] <= window + 1):
            return None
        far = distances(positions).abs() > window  # (1 or B, n, n)
        lowest = max(FAR, _finfo(query).min)
        return query.new_zeros(far.shape).masked_fill_(far, lowest).unsqueeze(1)

    def place_graph(
        self,
        g: GraphBuilder,
        hf: PreTrainedModel,
        layer: int,
        query: str,
        key: str,
        positions: str,
    ) -> tuple[str, str]:
        import numpy as np
        from onnx import TensorProto

        speeds = self._speeds(hf, layer).detach().cpu().float().numpy()
        axes = g.constant([1, 3], np.int64)
        places = g("Unsqueeze", g("Cast", positions, to=TensorProto.FLOAT), axes)  # (B, 1, n, 1)
        turns = g("Mul", places, g.constant(np.concatenate([speeds, speeds])))  # (B, 1, n, d)
        signs = g.constant(np.repeat(np.array([-1, 1], np.float32), len(speeds)))
        cosine, sine = g("Cos", turns), g("Mul", g("Sin", turns), signs)

        def turned(rows: str) -> str:
            first, second = g.many("Split", rows, outputs=2, num_outputs=2, axis=-1)
            crossed = g("Concat", second, first, axis=-1)
            return g("Add", g("Mul", rows, cosine), g("Mul", crossed, sine))

        return turned(query), turned(key)

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

        window = self._window(hf, layer)
        if window is None:
            return None
        ahead, beside = (
            g("Unsqueeze", positions, g.constant(axes, np.int64)) for axes in ([1, 2], [1, 3])
        )
        far = g("Greater", g("Abs", g("Sub", ahead, beside)), g.constant(window, np.int64))
        return g("Where", far, g.constant(FAR, np.float32), g.constant(0.0, np.float32))

    def token_head(self, hf: PreTrainedModel) -> TokenHead:
        parts: Any = hf
        return TokenHead(
            parts.classifier,
            dropout=parts.drop,
            before=parts.base_model.final_norm,
            dense=parts.head.dense,
            activation=hf.config.classifier_activation,
            norm=parts.head.norm,
        )

    def sentence_head(self, hf: PreTrainedModel) -> SentenceHead:
        parts, head = hf, self.token_head(hf)
        assert head.dense is not None
        return SentenceHead(
            first_dropout=lambda hidden: hidden,
            dense=head.dense,
            activation=head.activation,
            dropout=head.dropout,
            out=head.out,
            norm=head.norm,
            before=head.before,
            mean=parts.config.classifier_pooling == "mean",
        )

    def _kind(self, hf: PreTrainedModel, layer: int) -> str:
        kind: Any = self.layers(hf)[layer].attention_type
        return str(kind)

    def _window(self, hf: PreTrainedModel, layer: int) -> int | None:
        """Return how far tokens see to each side, None in a layer where all see all."""
        local = self._kind(hf, layer) == "sliding_attention"
        return int(hf.config.sliding_window) if local else None

    def _speeds(self, hf: PreTrainedModel, layer: int) -> Tensor:
        """Return the angles (d / 2,) by which one place turns."""
        base: Any = hf.base_model
        speeds: Tensor = getattr(base.rotary_emb, f"{self._kind(hf, layer)}_inv_freq")
        return speeds


def _finfo(rows: Tensor) -> torch.finfo:
    import torch

    return torch.finfo(rows.dtype)


def _turned(rows: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    import torch

    first, second = rows.chunk(2, dim=-1)
    return rows * cosine + torch.cat([-second, first], dim=-1) * sine


MODERNBERT = _ModernBert(
    facts=ConfigFacts(
        keys={
            "hidden": "hidden_size",
            "intermediate": "intermediate_size",
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "vocabulary": "vocab_size",
            "positions": "max_position_embeddings",
        },
        required=dict.fromkeys(
            ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), False
        ),
        hidden_dropout="mlp_dropout",
        attention_dropout="attention_dropout",
        products_per_token=0,
        packed=True,
        gated=True,
        biased=False,
        position_table=False,
        head_layer=True,
    ),
    head_parts=("head", "classifier"),
    trained_parts=("head",),
)
