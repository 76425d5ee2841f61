"""Fake quantizer of one activation: it watches a range, then rounds to its grid."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from quala.compress.quantize.config import LOSS_AWARE, QuantizeConfig, StepInit, WeightSpec
from quala.compress.quantize.grids import (
    bwn_integers,
    exact_lat_integers,
    initial_step,
    lat_integers,
    spread,
    step_of,
    twn_integers,
)
from quala.compress.quantize.rounding import (
    SMALLEST_STEP,
    at_least,
    fake_affine,
    fake_learned,
    fake_steps,
    row_integers,
    step_integers,
    straight_through,
)

Mode = Literal["off", "observe", "fake"]


class ActivationQuantizer(nn.Module):
    """Affine per-tensor fake quantizer to {0, ..., 2^bits - 1}, with an integer zero point.

    Modes: `off` passes through, `observe` passes through and widens the range, `fake` rounds.
    With `ema`, training in mode `fake` keeps averaging the range.
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
    def _init(self) -> StepInit | None:
        """The symmetric rule that a learned step starts by, None for an affine range."""
        init = self.config.activation_init
        return init if self.learned and init != "percentile" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "off":
            return x
        if self.mode == "observe":
            self.observe(x)
            return x
        if self.learned:
            return fake_learned(x, self.positive_step(), self.zero_point, levels=self.levels)
        if self.training and self.config.activation_range == "ema":
            self.observe(x)
            self.finalise()
        return fake_affine(x, self.step, self.zero_point, levels=self.levels)

    def forget(self) -> None:
        """Drop what was observed so far."""
        for buffer in (self.low, self.high, self.observations):
            buffer.zero_()

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Widen or average the range with one more tensor."""
        self.observations += 1
        if self._init is not None:
            self._observe_spread(x.detach().float(), self._init)
            return
        low, high = self._extremes(x.detach().float())
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

    def _observe_spread(self, x: Tensor, init: StepInit) -> None:
        """Keep the least value in `low`, and in `high` the mean spread, for `max` the largest."""
        self.low.copy_(torch.minimum(self.low, x.min()))
        seen = spread(x.flatten(), init, self._top())
        if init == "max":
            self.high.copy_(torch.maximum(self.high, seen))
        else:
            self.high += (seen - self.high) / self.observations

    def _zero(self) -> int:
        """Return the zero point of a symmetric grid: 0 where nothing negative was seen."""
        return (self.levels + 1) // 2 if self.low < 0 else 0

    def _top(self) -> int:
        """Return the largest integer above the zero point, Qp."""
        return self.levels - self._zero()

    @torch.no_grad()
    def finalise(self) -> None:
        """Turn what was observed into a step and an integer zero point.

        An affine range is widened to hold 0; a symmetric rule of LSQ gives the step itself.
        """
        if self._init is not None:
            self.zero_point.fill_(self._zero())
            self.step.copy_(step_of(self.high, self._init, self._top()))
            self.floor.copy_(self.step / 256)
            return
        low, high = self.low.clamp(max=0), self.high.clamp(min=0)
        step = (high - low).div_(self.levels).clamp_(min=SMALLEST_STEP)
        self.zero_point.copy_((-low / step).round_().clamp_(0, self.levels))
        self.step.copy_(step)
        self.floor.copy_(step / 256)

    def _extremes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.activation_range in ("minmax", "ema") or self.config.percentile == 100:
            low, high = torch.aminmax(x)
            return low, high
        flat = x.flatten()
        # `torch.quantile` refuses more than 2^24 values, the k-th smallest does not.
        tail = int(flat.numel() * (1 - self.config.percentile / 100))
        return (
            flat.kthvalue(tail + 1).values,
            flat.kthvalue(flat.numel() - tail).values,
        )

    def positive_step(self) -> Tensor:
        """Return the step in use; a learned one never falls below 1/256 of the calibrated one."""
        return at_least(self.step, self.floor) if self.learned else self.step


class WeightQuantizer(nn.Module):
    """Fake quantizer of one weight: `minmax`, `lsq`, `bwn`, `twn`, `lat` or `lat_exact`.

    `lsq` keeps a learned `step` per scale, (rows, groups), or (1, 1) per tensor. The loss-aware
    methods keep `curvature`, the diagonal Hessian in the shape of the weight, 1 at first. The
    others have no state.
    """

    step: Tensor
    floor: Tensor
    curvature: Tensor

    def __init__(self, weight: Tensor, spec: WeightSpec) -> None:
        super().__init__()
        self.spec = spec
        groups = spec.groups(weight.detach())
        if spec.method == "lsq":
            step = initial_step(groups, spec.init, spec.top)
            self.step = nn.Parameter(step)
            self.register_buffer("floor", step / 256)
        if spec.method in LOSS_AWARE:
            self.register_buffer("curvature", torch.ones_like(weight, requires_grad=False))

    def forward(self, weight: Tensor) -> Tensor:
        """Return `weight` rounded."""
        return self._rounded(weight, weight, None)

    def rows(self, rows: Tensor, ids: Tensor, table: Tensor) -> Tensor:
        """Return `rows` (..., H) rounded, which are the rows `ids` of the weight `table`.

        The same values and gradients as rows of the rounded table, without rounding all of it.
        """
        return self._rounded(rows, table, ids)

    @torch.no_grad()
    def integers(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return float codes in the shape of `weight`, and the scales (rows or 1, groups).

        Codes times scales are what `forward` returns, to the bit.
        """
        groups = self.spec.groups(weight)
        codes, scale = self._codes(groups, groups, None)
        return codes.reshape(weight.shape), scale.squeeze(-1)

    def _rounded(self, weight: Tensor, table: Tensor, ids: Tensor | None) -> Tensor:
        spec = self.spec
        # Where rows have grids of their own, nothing hangs on the rest of the table.
        shared = spec.granularity == "tensor"
        groups = spec.groups(weight)
        if spec.method == "lsq":
            step = self._steps(None if shared else ids)
            count = table.numel() if shared else groups.shape[-1]
            return fake_steps(groups, step, spec.top, count=count).reshape(weight.shape)
        whole = spec.groups(table.detach()) if shared else groups.detach()
        codes, scale = self._codes(groups.detach(), whole, None if shared else ids)
        return straight_through(groups, codes.mul_(scale)).reshape(weight.shape)

    def _codes(self, groups: Tensor, whole: Tensor, ids: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the codes of `groups` on the grids that `whole` has, and the scales."""
        method = self.spec.method
        if method == "lsq":
            step = self._steps(ids)
            return step_integers(groups, step, self.spec.top), step
        if method == "minmax":
            return row_integers(groups, self.spec.bits, whole=whole)
        if method == "bwn":
            return bwn_integers(groups, whole=whole)
        if method == "twn":
            return twn_integers(groups, whole=whole)
        curvature = self.spec.groups(self.curvature if ids is None else self.curvature[ids])
        solve = lat_integers if method == "lat" else exact_lat_integers
        return solve(groups, curvature, whole=whole)

    def _steps(self, ids: Tensor | None) -> Tensor:
        step, floor = (self.step, self.floor) if ids is None else (self.step[ids], self.floor[ids])
        return at_least(step, floor).unsqueeze(-1)

    def extra_repr(self) -> str:
        return f"{self.spec.method}, {self.spec.bits} bits, {self.spec.granularity}"


class QuantLinear(nn.Linear):
    """Linear layer with a rounded weight, and its input rounded per tensor.

    `from_float` shares the parameters of the layer it replaces, so optimizers stay valid. The
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
