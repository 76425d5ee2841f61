"""GELU, softmax and LayerNorm on integers, by polynomials and shifts (I-BERT, arXiv 2101.01321).

An input is first rounded to a fixed-point grid. From there on every number is an integer that
fits int32, a power of two, or the scale of the result. The kernels compute in float32, in which
integers up to 2^24 are exact; the sums of LayerNorm are in float64; the last product of each
kernel is the float32 nearest to the int32. Gradients are those of the functions that they stand
for.

Unlike the paper's, the grids need no calibration, the probabilities keep more than 8 bits,
LayerNorm finds the shift of its variance for each row, and its weight may be 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.activations import GELUActivation

from quala.architecture import KERNELS, KERNELS_KEY, check_kernels
from quala.compress.quantize.rounding import straight_through
from quala.errors import QualaError, unknown
from quala.models.experts import Experts
from quala.models.families import family_of
from quala.models.significance import row_softmax

UNIT = 1 << 10
"""Codes of 1, in the inputs of GELU and of softmax."""

GELU_TOP = (1 << 17) - 1
"""The largest code of an input of GELU, which is 128."""
GELU_EDGE = round(1.769 * math.sqrt(2) * UNIT)
GELU_ONE = round(2 / 0.2888 * UNIT**2)
"""erf(x / sqrt(2)) = sign(q) (ONE - (EDGE - min(|q|, EDGE))^2) / ONE, for x of the code q."""
GELU_SHIFT = 10
"""Bits that erf + 1 is cut by, so that 17 bits times it fit 31."""
GELU_SCALE = (1 << GELU_SHIFT) / (2 * GELU_ONE * UNIT)

SOFTMAX_FARTHEST = (1 << 15) - 1
"""Codes below the largest logit, which are 32: nothing is left of a token there."""
OCTAVE = round(math.log(2) * UNIT)
EXP_SLOPE = round(0.96963238 / 0.35815147 * UNIT)
EXP_ONE = round(1 / 0.35815147 * UNIT**2)
"""exp(-u) = (u (u - SLOPE) + ONE) / ONE, for the codes u of 0 to ln 2."""
EXP_SHIFT = 8
"""Bits that exp is cut by, so that the sum of a row fits 24."""
INVERSE = 1 << 30
SOFTMAX_SCALE = 1 / INVERSE

NORM_UNIT = 1 << 12
"""Codes of 1, in the inputs of LayerNorm."""
NORM_TOP = (1 << 21) - 1
"""The largest code of an input of LayerNorm, which is 512."""
SQUARE_BITS = 10
"""Bits of a deviation that is squared: the sum of 1024 squares is at most 2^30."""
SHIFTS = tuple(1 << bits for bits in range(SQUARE_BITS, 23))
"""The largest deviation of a row is cut by a bit for each of these that it reaches."""
NORM_LEAST = 64
"""The smallest root of a sum of squares; in the place of an epsilon."""


def gelu(x: Tensor) -> Tensor:
    """Return i-GELU in float32: x (erf(x / sqrt(2)) + 1) / 2, erf by a parabola."""
    q = x.float().mul(UNIT).round_().clamp_(-GELU_TOP, GELU_TOP)  # 18 bits
    left = GELU_EDGE - q.abs().clamp_(max=GELU_EDGE)
    erf = (GELU_ONE - left.square_()).mul_(q.sign())  # 23 bits and a sign
    share = erf.add_(GELU_ONE).mul_(1 / (1 << GELU_SHIFT)).floor_()  # 14 bits
    return share.mul_(q).mul_(GELU_SCALE)


def softmax(x: Tensor) -> Tensor:
    """Return i-softmax over the last dimension in float32; minus infinity gives 0."""
    q = x.float().mul(UNIT).round_()
    q = (q.amax(dim=-1, keepdim=True) - q).clamp_(max=SOFTMAX_FARTHEST)  # 15 bits
    halvings = ((q + 0.5) * (1 / OCTAVE)).floor_()  # floor(q / OCTAVE): half a code off any edge
    u = q.sub_(halvings * OCTAVE)
    power = (u - EXP_SLOPE).mul_(u).add_(EXP_ONE)  # 22 bits
    power = power.mul_(_power_of_two(halvings.neg_().sub_(EXP_SHIFT))).floor_()  # 14 bits
    total = power.sum(dim=-1, keepdim=True)
    inverse = (total / 2).floor_().double().add_(INVERSE).div_(total).floor_()
    return power.mul_(inverse.float()).mul_(SOFTMAX_SCALE)


def normalized(x: Tensor) -> Tensor:
    """Return the last dimension less its mean over its deviation, in float32."""
    width = x.shape[-1]
    q = x.float().mul(NORM_UNIT).round_().clamp_(-NORM_TOP, NORM_TOP)  # 22 bits
    total = q.sum(dim=-1, keepdim=True, dtype=torch.float64)  # 32 bits
    y = q.sub_(total.add_(width // 2).div_(width).floor_())  # 23 bits
    size = y.abs()
    largest = size.amax(dim=-1, keepdim=True)
    shift = (largest >= largest.new_tensor(SHIFTS)).sum(dim=-1, keepdim=True)
    small = size.mul_(_power_of_two(-shift)).add_(0.5).floor_()  # 10 bits, or 1024
    squares = small.square_().sum(dim=-1, keepdim=True, dtype=torch.float64)  # 30 bits
    root = squares.sqrt_().floor_().mul_(_power_of_two(shift)).clamp_(min=NORM_LEAST)
    factor = root.reciprocal_().mul_(INVERSE).floor_()
    return y.mul_(factor.float()).mul_(norm_scale(width))


def norm_scale(width: int) -> float:
    """Return what the integers of `normalized` are multiplied by."""
    return math.sqrt(width) / INVERSE


def _power_of_two(exponent: Tensor) -> Tensor:
    """Return 2^exponent in float32, exactly."""
    return ((exponent.to(torch.int32) + 127) << 23).view(torch.float32)


def _taught(
    kernel: Callable[[Tensor], Tensor], function: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    """Return the kernel's values, with the gradients of the function that it stands for."""
    value = kernel(x.detach()).to(x.dtype)
    return straight_through(function(x), value) if torch.is_grad_enabled() else value


class IntegerGELU(nn.Module):
    """GELU on integers."""

    def forward(self, x: Tensor) -> Tensor:
        return _taught(gelu, functional.gelu, x)


class IntegerSoftmax(nn.Module):
    """Softmax on integers, over the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return _taught(softmax, row_softmax, x)


class IntegerLayerNorm(nn.LayerNorm):
    """LayerNorm on integers; the scale of a channel holds its weight."""

    @classmethod
    def from_float(cls, norm: nn.LayerNorm) -> Self:
        """Return the twin of `norm`, on the same parameters."""
        twin = cls(norm.normalized_shape, norm.eps, device="meta")
        twin.weight, twin.bias = norm.weight, norm.bias
        return twin.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        return _taught(self._scaled, super().forward, input)

    def _scaled(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, normalized(x).to(self.bias.dtype), self.weight)


def replace_kernels(hf: PreTrainedModel, names: Sequence[str]) -> None:
    """Replace functions of `hf` in place by integer kernels, and record that in its config.

    `gelu` is the activation of the feed-forwards, `softmax` that of the attention, `layernorm` all
    norms. Those of an earlier call stay.

    Raises:
        QualaError: for a name that is not in `KERNELS`, and for a model without that function.
    """
    for name in names:
        if name not in KERNELS:
            raise unknown("kernel", name, KERNELS)
    check_kernels(names, hf.config.to_dict())
    family, places = family_of(hf), {module: name for name, module in hf.named_modules()}
    blocks = [family.block(layer) for layer in family.layers(hf)]
    twins: dict[str, nn.Module] = {}
    if "gelu" in names:
        for block in blocks:
            twins[places[block.activation]] = _integer_gelu(block.activation)
    if "layernorm" in names:
        norms = [family.embeddings(hf).norm]
        for block in blocks:
            last = block.ffn_norm
            norms += [block.attention_norm, *(last if isinstance(last, Experts) else [last])]
        for norm in norms:
            if not isinstance(norm, nn.LayerNorm) or norm.weight is None or norm.bias is None:
                raise QualaError(
                    "The kernel `layernorm` needs a LayerNorm with weights and biases, got "
                    f"{norm}."
                )
            twins[places[norm]] = IntegerLayerNorm.from_float(norm)
    for name, twin in twins.items():
        hf.set_submodule(name, twin)
    if "softmax" in names:
        hf.attention_softmax = IntegerSoftmax()  # `LengthAdaptiveModel.softmax` finds it
    known = {*names, *getattr(hf.config, KERNELS_KEY, ())}
    setattr(hf.config, KERNELS_KEY, [name for name in KERNELS if name in known])


def _integer_gelu(old: nn.Module) -> IntegerGELU:
    exact = isinstance(old, nn.GELU) and old.approximate == "none"
    if not (exact or isinstance(old, GELUActivation | IntegerGELU)):
        raise QualaError(f"The kernel `gelu` replaces the exact GELU, got {type(old).__name__}.")
    return IntegerGELU()


def rebuild_kernels(hf: PreTrainedModel) -> None:
    """Replace the kernels of a new `hf`, in place, that its config records.

    Raises:
        QualaError: for a record that is damaged, or does not fit the model.
    """
    names = getattr(hf.config, KERNELS_KEY, None)
    if names is None:
        return
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise QualaError(f"`{KERNELS_KEY}` in config.json must be a list of names, got {names!r}.")
    replace_kernels(hf, names)
