"""Quantizer of one weight: codes and scales by a named method, straight-through gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quala.compress.quantize.binary import bwn_integers
from quala.compress.quantize.lsq import at_least, fake_steps, step_integers
from quala.compress.quantize.spec import LOSS_AWARE, WeightSpec
from quala.compress.quantize.ste import fake_rows, row_integers, straight_through
from quala.compress.quantize.steps import initial_step
from quala.compress.quantize.ternary import exact_lat_integers, lat_integers, twn_integers


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

    @property
    def local(self) -> bool:
        """Whether the grid of a row depends on that row only."""
        return self.spec.granularity != "tensor"

    def forward(self, weight: Tensor, ids: Tensor | None = None) -> Tensor:
        """Return `weight` rounded; `ids` says which rows of the whole it holds, None all."""
        spec = self.spec
        groups = spec.groups(weight)
        if spec.method == "lsq":
            rounded = fake_steps(groups, self._steps(ids), spec.top)
        elif spec.method == "minmax":
            rounded = fake_rows(groups, spec.bits)
        else:
            codes, scale = self._codes(groups.detach(), ids)
            rounded = straight_through(groups, codes.mul_(scale))
        return rounded.reshape(weight.shape)

    @torch.no_grad()
    def integers(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return float codes in the shape of `weight`, and the scales (rows or 1, groups).

        Codes times scales are what `forward` returns, to the bit.
        """
        codes, scale = self._codes(self.spec.groups(weight), None)
        return codes.reshape(weight.shape), scale.squeeze(-1)

    def _codes(self, groups: Tensor, ids: Tensor | None) -> tuple[Tensor, Tensor]:
        method = self.spec.method
        if method == "lsq":
            step = self._steps(ids)
            return step_integers(groups, step, self.spec.top), step
        if method == "minmax":
            return row_integers(groups, self.spec.bits)
        if method == "bwn":
            return bwn_integers(groups)
        if method == "twn":
            return twn_integers(groups)
        curvature = self.curvature if ids is None else self.curvature[ids]
        solve = lat_integers if method == "lat" else exact_lat_integers
        return solve(groups, self.spec.groups(curvature))

    def _steps(self, ids: Tensor | None) -> Tensor:
        step, floor = (self.step, self.floor) if ids is None else (self.step[ids], self.floor[ids])
        return at_least(step, floor).unsqueeze(-1)

    def extra_repr(self) -> str:
        return f"{self.spec.method}, {self.spec.bits} bits, {self.spec.granularity}"
