"""Quantizer of one weight: codes and scales by a named method, straight-through gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quala.compress.quantize.binary import bwn_integers
from quala.compress.quantize.lsq import at_least, fake_steps, step_integers
from quala.compress.quantize.spec import LOSS_AWARE, WeightSpec
from quala.compress.quantize.ste import row_integers, straight_through
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
