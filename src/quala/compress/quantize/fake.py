"""Fake quantizer of one activation: it watches a range, then rounds to its grid."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.lsq import at_least
from quala.compress.quantize.spec import StepInit
from quala.compress.quantize.ste import SMALLEST_STEP, fake_affine, fake_learned
from quala.compress.quantize.steps import spread, step_of

Mode = Literal["off", "observe", "fake"]


class ActivationQuantizer(nn.Module):
    """Affine per-tensor fake quantizer to {0, ..., 2^bits - 1}, with an integer zero point.

    Modes: `off` passes through, `observe` passes through and widens the range, `fake` rounds.
    With `ema`, training in mode `fake` keeps averaging the range until `frozen` is set.
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
        self.frozen = False
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
        if self.training and not self.frozen and self.config.activation_range == "ema":
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
