"""Layers that round while training: their inputs per tensor, their weights per group."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from quala.compress.quantize.config import LOSS_AWARE, QuantizeConfig, StepInit, WeightSpec
from quala.compress.quantize.grids import GRIDS, initial_step, measured_range, step_from_range
from quala.compress.quantize.rounding import (
    SMALLEST_STEP,
    at_least,
    fake_affine,
    fake_affine_lsq,
    fake_symmetric_lsq,
    straight_through,
    symmetric_integers,
)

Mode = Literal["off", "observe", "fake"]
FLOOR = 256
"""A learned step stays above its first value / 256: positive, and free to move by far."""


class QuantLinear(nn.Linear):
    """Linear layer with a rounded weight, and its input rounded per tensor.

    `from_float` shares the parameters of the layer that it replaces, so optimizers stay valid.
    The inputs numbered `outliers` (k,) and their weights stay float. While a narrower sub-network
    runs (`compress.prune.views`), `rows` and the first `columns` of the rounded weight are all
    that computes: its grid is that of the whole weight, as it is for the integers.
    """

    rows: slice | Tensor = slice(None)
    columns: int | None = None
    outliers: Tensor
    input_quantizer: ActivationQuantizer
    weight_quantizer: WeightQuantizer

    @classmethod
    def from_float(
        cls, linear: nn.Linear, config: QuantizeConfig, bits: int | None = None
    ) -> Self:
        """Return the quantized twin of `linear`, on the same parameters.

        Its weight has `bits`, those of `config` if None.
        """
        layer = cls(
            linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta"
        )
        layer.weight, layer.bias = linear.weight, linear.bias
        layer.weight_quantizer = WeightQuantizer(linear.weight, config.weights_at(bits))
        layer.input_quantizer = ActivationQuantizer(config).to(linear.weight.device)
        none = torch.zeros(0, dtype=torch.long, device=linear.weight.device)
        layer.register_buffer("outliers", none)
        return layer.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        x = self.input_quantizer(self.without_outliers(input))
        bias = self.bias if self.bias is None else self.bias[self.rows]
        if self.input_quantizer.mode != "fake":
            return functional.linear(input, self.weight[self.rows, : self.columns], bias)
        weight = self.weight_quantizer(self.without_outliers(self.weight))
        product = functional.linear(x, weight[self.rows, : self.columns], bias)
        if not len(self.outliers):
            return product
        return product + input[..., self.outliers] @ self.weight[self.rows][:, self.outliers].T

    def float_product(self, input: Tensor) -> Tensor:
        """Multiply an input that stays float by the weight, rounded where inputs are."""
        weight = self.weight
        if self.input_quantizer.mode == "fake":
            weight = self.weight_quantizer(self.without_outliers(self.weight))
            weight = weight.index_copy(-1, self.outliers, self.weight[:, self.outliers])
        bias = self.bias if self.bias is None else self.bias[self.rows]
        return functional.linear(input, weight[self.rows, : self.columns], bias)

    def without_outliers(self, values: Tensor) -> Tensor:
        """Return `values` (..., in) with 0 in place of the outliers."""
        return values.index_fill(-1, self.outliers, 0.0) if len(self.outliers) else values

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
        # Calibration finds how many there are. A state of an older version has none.
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
        if self.mode != "fake":
            return rows
        rounded: Tensor = self.weight_quantizer(rows, ids=input, table=self.weight)
        return rounded


class ActivationQuantizer(nn.Module):
    """Affine per-tensor fake quantizer to {0, ..., 2^bits - 1}, with an integer zero point.

    Modes: `off` passes through, `observe` passes through and widens the range, `fake` rounds.
    With `ema`, training in mode `fake` goes on averaging the range.
    """

    low: Tensor
    high: Tensor
    observations: Tensor
    zero_point: Tensor
    step: Tensor
    floor: Tensor

    def __init__(self, config: QuantizeConfig) -> None:
        super().__init__()
        self.config = config
        self.levels = (1 << config.activation_bits) - 1
        self.mode: Mode = "off"
        for name in ("low", "high", "observations", "zero_point"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("floor", torch.zeros(()))
        if self.learned:
            self.step = nn.Parameter(torch.ones(()))
        else:
            self.register_buffer("step", torch.ones(()))

    @property
    def learned(self) -> bool:
        """Whether the step is a parameter (LSQ)."""
        return self.config.activation_range == "lsq"

    @property
    def symmetric_init(self) -> StepInit | None:
        """The symmetric rule of a learned step's start, None for an affine range."""
        init = self.config.activation_init
        return init if self.learned and init != "percentile" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "off":
            return x
        if self.mode == "observe":
            self.observe(x)
            return x
        if self.learned:
            return fake_affine_lsq(x, self.positive_step(), self.zero_point, levels=self.levels)
        if self.training and self.config.activation_range == "ema":
            self.observe(x)
            self.finalize()
        return fake_affine(x, self.step, self.zero_point, levels=self.levels)

    def positive_step(self) -> Tensor:
        """Return the step in use; a learned one never falls below its floor."""
        return at_least(self.step, self.floor) if self.learned else self.step

    def forget(self) -> None:
        """Drop what was observed so far."""
        for buffer in (self.low, self.high, self.observations):
            buffer.zero_()

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Widen or average the range with one more tensor."""
        self.observations += 1
        x = x.detach().float()
        if self.symmetric_init is not None:
            self._observe_symmetric(x, self.symmetric_init)
            return
        low, high = self._extremes(x)
        if self.config.activation_range == "minmax":
            self.low.copy_(torch.minimum(self.low, low))  # starts at 0, which is always inside
            self.high.copy_(torch.maximum(self.high, high))
            return
        share = 1 / self.observations
        if self.config.activation_range == "ema":
            # (1 - d) / (1 - d^t): the moving average as if it had not started at zero.
            decay = self.config.ema_decay
            share = (1 - decay) / (1 - torch.pow(decay, self.observations))
        self.low += share * (low - self.low)
        self.high += share * (high - self.high)

    @torch.no_grad()
    def finalize(self) -> None:
        """Turn what was observed into a step and an integer zero point.

        An affine range is widened to hold 0; a symmetric rule of LSQ gives the step itself.
        """
        if self.symmetric_init is not None:
            zero, top = self._symmetric_grid()
            self.zero_point.fill_(zero)
            self.step.copy_(step_from_range(self.high, self.symmetric_init, top))
        else:
            low, high = self.low.clamp(max=0), self.high.clamp(min=0)
            step = (high - low).div_(self.levels).clamp_(min=SMALLEST_STEP)
            self.zero_point.copy_((-low / step).round_().clamp_(0, self.levels))
            self.step.copy_(step)
        self.floor.copy_(self.step / FLOOR)

    def _extremes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.activation_range in ("minmax", "ema") or self.config.percentile == 100:
            low, high = torch.aminmax(x)
            return low, high
        flat = x.flatten()
        # `torch.quantile` refuses more than 2^24 values, `kthvalue` does not.
        tail = int(flat.numel() * (1 - self.config.percentile / 100))
        return flat.kthvalue(tail + 1).values, flat.kthvalue(flat.numel() - tail).values

    def _observe_symmetric(self, x: Tensor, init: StepInit) -> None:
        """Keep the least value in `low`, and in `high` the mean range, for `max` the largest."""
        self.low.copy_(torch.minimum(self.low, x.min()))
        _, top = self._symmetric_grid()
        measured = measured_range(x.flatten(), init, top)
        if init == "max":
            self.high.copy_(torch.maximum(self.high, measured))
        else:
            self.high += (measured - self.high) / self.observations

    def _symmetric_grid(self) -> tuple[int, int]:
        """Return the zero point, 0 where nothing negative was seen, and the integers above it."""
        zero = (self.levels + 1) // 2 if self.low < 0 else 0
        return zero, self.levels - zero


class WeightQuantizer(nn.Module):
    """Fake quantizer of one weight by the method of its `spec`.

    `lsq` keeps a learned `step` per scale, (rows, groups), or (1, 1) per tensor. The loss-aware
    methods keep `curvature`, the diagonal Hessian in the shape of the weight, 1 at first. The
    others have no state. At 0 bits every weight is 0, and there is nothing to learn.
    """

    step: Tensor
    floor: Tensor
    curvature: Tensor | None

    def __init__(self, weight: Tensor, spec: WeightSpec) -> None:
        super().__init__()
        self.spec = spec
        if spec.method == "lsq" and spec.bits:
            step = initial_step(spec.groups(weight.detach()), spec.init, spec.top)
            self.step = nn.Parameter(step)
            self.register_buffer("floor", step / FLOOR)
        aware = spec.method in LOSS_AWARE
        ones = torch.ones_like(weight, requires_grad=False) if aware else None
        self.register_buffer("curvature", ones)

    def forward(
        self, weight: Tensor, *, ids: Tensor | None = None, table: Tensor | None = None
    ) -> Tensor:
        """Return `weight` (..., columns) rounded.

        With `ids`, `weight` is the rows `ids` of `table`. The values and gradients are those of
        rows of the rounded table, but only a scale per tensor reads all of it.
        """
        spec = self.spec
        if not spec.bits:
            return torch.zeros_like(weight)
        groups = whole = spec.groups(weight)  # (..., groups, values)
        if table is not None and spec.granularity == "tensor":
            ids, whole = None, spec.groups(table)
        if spec.method == "lsq":
            count = whole.shape[-1]
            rounded = fake_symmetric_lsq(groups, self.steps(ids), spec.top, count=count)
        else:
            find = GRIDS[spec.method]
            codes, scale = find(
                groups.detach(), whole.detach(), spec.top, self.grouped_curvature(ids)
            )
            rounded = straight_through(groups, codes.mul_(scale))
        return rounded.reshape(weight.shape)

    @torch.no_grad()
    def integers(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return float codes in the shape of `weight`, and the scales (rows or 1, groups).

        Codes times scales are what `forward` returns, to the bit.
        """
        spec = self.spec
        if not spec.bits:
            return torch.zeros_like(weight), weight.new_ones(1, 1)
        groups = spec.groups(weight)
        if spec.method == "lsq":
            scale = self.steps()
            codes = symmetric_integers(groups, scale, spec.top)
        else:
            find = GRIDS[spec.method]
            codes, scale = find(groups, groups, spec.top, self.grouped_curvature())
        return codes.reshape(weight.shape), scale.squeeze(-1)

    def steps(self, ids: Tensor | None = None) -> Tensor:
        """Return the learned steps of all rows or of `ids`, (..., 1), not below their floor."""
        step, floor = (self.step, self.floor) if ids is None else (self.step[ids], self.floor[ids])
        return at_least(step, floor).unsqueeze(-1)

    def grouped_curvature(self, ids: Tensor | None = None) -> Tensor | None:
        """Return the curvature of all rows or of `ids` as groups, None where there is none."""
        if self.curvature is None:
            return None
        return self.spec.groups(self.curvature if ids is None else self.curvature[ids])

    def extra_repr(self) -> str:
        return f"{self.spec.method}, {self.spec.bits} bits, {self.spec.granularity}"
