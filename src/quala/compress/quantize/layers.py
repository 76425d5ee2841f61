"""Drop-in linear and embedding layers that compute on rounded weights and inputs."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.fake import ActivationQuantizer, Mode
from quala.compress.quantize.weight import WeightQuantizer


class QuantLinear(nn.Linear):
    """Linear layer with a rounded weight, and its input rounded per tensor.

    `from_float` shares the parameters of the layer it replaces, so optimisers stay valid. The
    inputs at the places `outliers` (k,) and their weights stay float.
    """

    outliers: Tensor

    input_quantizer: ActivationQuantizer
    weight_quantizer: WeightQuantizer

    @classmethod
    def from_float(cls, linear: nn.Linear, config: QuantizeConfig) -> Self:
        """Return the quantized twin of `linear`, on the same parameters."""
        layer = cls(
            linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta"
        )
        layer.weight, layer.bias = linear.weight, linear.bias
        layer.weight_quantizer = WeightQuantizer(linear.weight, config.weights)
        layer.input_quantizer = ActivationQuantizer(config).to(linear.weight.device)
        none = torch.zeros(0, dtype=torch.long, device=linear.weight.device)
        layer.register_buffer("outliers", none)
        return layer.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        x = self.input_quantizer(self.others(input))
        if self.input_quantizer.mode != "fake":
            return functional.linear(input, self.weight, self.bias)
        rounded = functional.linear(x, self.weight_quantizer(self.others(self.weight)), self.bias)
        if not len(self.outliers):
            return rounded
        return rounded + input[..., self.outliers] @ self.weight[:, self.outliers].T

    def others(self, values: Tensor) -> Tensor:
        """Return `values` (..., in) with 0 in the place of the outliers."""
        return values.index_fill(-1, self.outliers, 0.0) if len(self.outliers) else values

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
        # Their number is found by calibration; a state of an older version has none.
        stored = state.setdefault(f"{prefix}outliers", self.outliers[:0])
        self.outliers = self.outliers.new_zeros(len(stored))
        super()._load_from_state_dict(state, prefix, *args)


class QuantEmbedding(nn.Embedding):
    """Embedding whose rows are rounded after the gather."""

    mode: Mode
    weight_quantizer: WeightQuantizer

    @classmethod
    def from_float(cls, embedding: nn.Embedding, config: QuantizeConfig) -> Self:
        """Return the quantized twin of `embedding`, on the same parameter."""
        with torch.device("meta"):
            layer = cls(
                embedding.num_embeddings,
                embedding.embedding_dim,
                padding_idx=embedding.padding_idx,
            )
        layer.weight = embedding.weight
        layer.weight_quantizer = WeightQuantizer(embedding.weight, config.embeddings)
        layer.mode = "off"
        return layer.train(embedding.training)

    def forward(self, input: Tensor) -> Tensor:
        rows = super().forward(input)  # (..., H)
        return (
            self.weight_quantizer.rows(rows, input, self.weight) if self.mode == "fake" else rows
        )
