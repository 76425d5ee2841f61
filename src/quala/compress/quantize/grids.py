"""Which grid a weight gets: the codes and scales of each method, and the first step of LSQ.

Weights come as groups (..., n), whose last dimension shares one scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quala.compress.quantize.config import StepInit, WeightMethod
from quala.compress.quantize.rounding import SMALLEST_STEP
from quala.errors import QualaError, unknown


class Grid(Protocol):
    """A method that rounds `groups` to codes on the grid that fits `whole` best.

    `whole` is `groups`, or the table that `groups` is a part of. `top` is the largest code, for
    `minmax`. `curvature` is a diagonal Hessian in the shape of `whole`, for the loss-aware
    methods; without it every weight counts the same.

    Returns:
        The codes, as floats in the shape of `groups`, and the scales (..., 1).
    """

    def __call__(
        self, groups: Tensor, whole: Tensor, top: int = 1, curvature: Tensor | None = None
    ) -> tuple[Tensor, Tensor]: ...


def minmax_codes(
    groups: Tensor, whole: Tensor, top: int = 1, curvature: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return codes -top to top, see `Grid`; the largest value of `whole` has the code `top`."""
    low, high = whole.aminmax(dim=-1, keepdim=True)
    step = torch.maximum(high, -low).div_(top)
    step.clamp_(min=SMALLEST_STEP)  # (..., 1); a row of zeros keeps a step
    return torch.div(groups, step).round_(), step


def bwn_codes(
    groups: Tensor, whole: Tensor, top: int = 1, curvature: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return codes -1 and 1 (BWN, arXiv 1603.05279), see `Grid`.

    alpha = mean|w| minimizes sum (w - alpha b)^2 for b = sign(w); 0 counts as positive.
    """
    scale = whole.abs().mean(dim=-1, keepdim=True)
    return torch.where(groups < 0, -1.0, 1.0).to(groups.dtype), scale


TWN_THRESHOLD = 0.7
"""As published: 2/3 is best for uniform weights, 0.75 for normal ones (arXiv 1605.04711)."""


def twn_codes(
    groups: Tensor, whole: Tensor, top: int = 1, curvature: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return codes -1, 0 and 1 (TWN, arXiv 1605.04711), see `Grid`.

    Weights above 0.7 mean|w| are kept, the scale is the mean size of those kept.
    """
    size = whole.abs()
    cut = TWN_THRESHOLD * size.mean(dim=-1, keepdim=True)
    return _ternary(groups, cut), _weighted_mean(size, (size > cut).to(size.dtype))


ROUNDS = 10
"""At most so many alternations; 98 % of rows of 3,072 normal weights need fewer."""


def lat_codes(
    groups: Tensor, whole: Tensor, top: int = 1, curvature: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return loss-aware codes -1, 0 and 1 by alternation (TernaryBERT, arXiv 2009.12812).

    See `Grid`. Lowers sum d (w - alpha b)^2 over alpha and b in turn, starting at TWN's b: alpha
    is the mean of |w| weighted by d where b is not 0, and b is not 0 where |w| > alpha / 2. Stops
    at a fixed point, a local optimum, or after `ROUNDS`.
    """
    size = whole.abs()
    d = torch.ones_like(whole) if curvature is None else curvature
    cut = TWN_THRESHOLD * size.mean(dim=-1, keepdim=True)
    kept = size > cut
    scale = _weighted_mean(size, d * kept)
    for _ in range(ROUNDS):
        wanted = size > scale / 2
        if torch.equal(wanted, kept):
            break
        cut, kept = scale / 2, wanted
        scale = _weighted_mean(size, d * kept)
    return _ternary(groups, cut), scale


def exact_lat_codes(
    groups: Tensor, whole: Tensor, top: int = 1, curvature: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the loss-aware codes -1, 0 and 1 of the global optimum, found by a sort; see `Grid`.

    For a fixed alpha the best b keeps |w| > alpha / 2, so some k largest weights are kept. With
    those, the least loss is sum d w^2 - (sum_k d |w|)^2 / sum_k d (arXiv 1802.08635).
    """
    size = whole.abs()
    d = torch.ones_like(whole) if curvature is None else curvature
    ordered, order = size.double().sort(dim=-1, descending=True)
    weights = d.double().gather(-1, order)
    mass, total = (weights * ordered).cumsum(-1), weights.cumsum(-1)  # (..., n), of the k largest
    best = (mass.square() / total).argmax(dim=-1, keepdim=True)
    cut = (mass.gather(-1, best) / total.gather(-1, best) / 2).to(size.dtype)
    return _ternary(groups, cut), _weighted_mean(size, d * (size > cut))


GRIDS: Mapping[WeightMethod, Grid] = {
    "minmax": minmax_codes,
    "bwn": bwn_codes,
    "twn": twn_codes,
    "lat": lat_codes,
    "lat_exact": exact_lat_codes,
}
"""All methods but `lsq`, whose grid is a parameter."""


def _ternary(groups: Tensor, cut: Tensor) -> Tensor:
    return groups.sign().mul_(groups.abs() > cut)


def _weighted_mean(size: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of the last dimension, 0 where all weights are 0."""
    total = weights.sum(dim=-1, keepdim=True)
    mass = (size * weights).sum(dim=-1, keepdim=True)
    return torch.where(total > 0, mass / total, 0.0)


def initial_step(groups: Tensor, init: StepInit, top: int) -> Tensor:
    """Return the first step of each group (..., n), shape (...), for integers up to `top`.

    Raises:
        QualaError: as `measured_range`.
    """
    return step_from_range(measured_range(groups, init, top), init, top)


TRUNCATED = 0.05
"""Share of the values outside the range of `truncation`, half at either end (KDLSQ-BERT)."""


def measured_range(groups: Tensor, init: StepInit, top: int) -> Tensor:
    """Return the range of each group (..., n) by the rule `init`, shape (...).

    `mean_abs`: 2 mean|x| (LSQ, arXiv 1902.08153). The others are clips: `max` is max|x|,
    `truncation` the larger end after 2.5 % of the values are cut at either end, `kl` the clip by
    `kl_clip` (both KDLSQ-BERT, arXiv 2101.05938), `tensorrt` the one by `tensorrt_clip`.

    Raises:
        QualaError: for another rule, or for one of `HISTOGRAMS` on more than one group: a row has
            too few values for a histogram.
    """
    if init not in get_args(StepInit):
        raise unknown("step initialization", init, get_args(StepInit))
    if init == "mean_abs":
        return groups.abs().mean(dim=-1).mul_(2)
    if init == "max":
        return groups.abs().amax(dim=-1)
    if init == "truncation":
        values = groups.shape[-1]
        cut = int(values * TRUNCATED / 2)
        low = groups.kthvalue(cut + 1, dim=-1).values
        high = groups.kthvalue(values - cut, dim=-1).values
        return torch.maximum(low.abs(), high.abs())
    if groups.numel() != groups.shape[-1]:
        raise QualaError(
            f"Step initialization `{init}` got {groups.numel() // groups.shape[-1]} groups; "
            "allowed is one, with granularity `tensor`."
        )
    rule = kl_clip if init == "kl" else tensorrt_clip
    clip = groups.new_tensor(rule(groups, levels=top + 1))
    return clip.expand(groups.shape[:-1]).clone()


def step_from_range(measured: Tensor, init: StepInit, top: int) -> Tensor:
    """Return the step for integers up to `top`: range / sqrt(top) for `mean_abs`, else / top."""
    divisor = math.sqrt(top) if init == "mean_abs" else top
    return (measured / divisor).clamp_(min=SMALLEST_STEP)


LEAST_SHARE = 1e-12
"""Of the values below an edge, where there are none."""


def kl_clip(x: Tensor, *, levels: int) -> float:
    """Return the clip of |x| whose distribution at `levels` points diverges least, above 0.

    As in KDLSQ-BERT's released code (arXiv 2101.05938). C is the share of |x| up to each of about
    sqrt(N) bins. For each number i of bins above `levels`, Q is C up to bin i - 1 and 1 from there
    on, its first i values resampled by straight lines to `levels` points and back. The i of least
    sum (C - Q) log2(C / Q) over all bins is chosen, the smallest of equals; the clip is i + 1/2
    bins. With fewer bins it is max|x|; an all-zero tensor gives 0.
    """
    size = x.detach().abs().float()
    low, top = (float(end) for end in size.aminmax())
    if low == top:
        return top
    root = math.sqrt(size.numel())
    # numpy divides the spread by sqrt(N): far from 0, the bins would be too many.
    bins = math.ceil(min(root * top / (top - low), 2 * root))
    if bins <= levels:
        return top
    counts = torch.histc(size, bins=bins, min=0, max=top).double().cpu().numpy()
    shares = np.maximum(np.cumsum(counts) / counts.sum(), LEAST_SHARE)
    lost = [cumulative_divergence(shares, kept, levels) for kept in range(levels + 1, bins + 1)]
    return top / bins * (levels + 1.5 + int(np.argmin(lost)))


def cumulative_divergence(shares: NDArray[np.float64], kept: int, levels: int) -> float:
    """Return sum (C - Q) log2(C / Q), see `kl_clip`, for the clip after the first `kept` bins."""
    clipped = np.append(shares[: kept - 1], 1.0)
    places, points = np.linspace(0, 1, kept), np.linspace(0, 1, levels)
    resampled = np.interp(places, points, np.interp(points, places, clipped))
    quantized = np.concatenate([resampled, np.ones(len(shares) - kept)])
    return float(((shares - quantized) * np.log2(shares / quantized)).sum())


BINS = 2048
"""Bins of the histogram, as in TensorRT."""


def tensorrt_clip(x: Tensor, *, levels: int) -> float:
    """Return the clip of |x| whose `levels` quantized values diverge least from |x|, above 0.

    TensorRT's calibration, which is for 8 bits: for each number i of the 2048 bins of |x|, P is
    the first i bins with the rest added to the last, Q those bins merged to `levels` runs, each
    spread evenly over its bins that are not empty. The i of least KL(P || Q) is chosen, the
    smallest of equals; its right edge is the clip. An all-zero tensor gives 0.
    """
    size = x.detach().abs().float()
    top = float(size.max())
    if top == 0:
        return 0.0
    counts = torch.histc(size, bins=BINS, min=0, max=top).double().cpu().numpy()
    divergences = [divergence(counts, kept, levels) for kept in range(levels, BINS + 1)]
    return top / BINS * (levels + int(np.argmin(divergences)))


def divergence(counts: NDArray[np.float64], kept: int, levels: int) -> float:
    """Return KL(P || Q) for the first `kept` bins, infinity where Q misses some of P."""
    inside = counts[:kept]
    wanted = inside.copy()
    wanted[-1] += counts[kept:].sum()
    filled = inside > 0
    edges = np.arange(levels) * kept // levels  # first bin of each run
    mass, used = np.add.reduceat(inside, edges), np.add.reduceat(filled.astype(float), edges)
    runs = np.diff(np.append(edges, kept))
    merged = np.repeat(mass / np.maximum(used, 1), runs) * filled
    present = wanted > 0
    if not merged[present].all():
        return float("inf")
    p, q = wanted[present] / wanted.sum(), merged[present] / merged.sum()
    return float((p * np.log(p / q)).sum())
