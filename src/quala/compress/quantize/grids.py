"""Binary weights with one scale per group (BWN, arXiv 1603.05279)."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quala.compress.quantize.config import StepInit
from quala.compress.quantize.rounding import SMALLEST_STEP
from quala.errors import QualaError, unknown


def bwn_integers(groups: Tensor, *, whole: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the codes -1 and 1 nearest to `groups` (..., n) and their scales (..., 1).

    alpha = mean|w| minimizes sum (w - alpha b)^2 for b = sign(w); 0 counts as positive. The mean
    is that of `whole`, of `groups` without it.
    """
    scale = (groups if whole is None else whole).abs().mean(dim=-1, keepdim=True)
    return torch.where(groups < 0, -1.0, 1.0).to(groups.dtype), scale


TWN_THRESHOLD = 0.7
ROUNDS = 10


def twn_integers(groups: Tensor, *, whole: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the codes of `groups` on the grid of `whole`, their own without it, and its scales.

    See `twn_grid`.
    """
    return _on_grid(groups, twn_grid(groups if whole is None else whole))


def lat_integers(
    groups: Tensor, curvature: Tensor, *, rounds: int = ROUNDS, whole: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return codes and scales as `twn_integers`, see `lat_grid`; `curvature` is of `whole`."""
    return _on_grid(groups, lat_grid(groups if whole is None else whole, curvature, rounds=rounds))


def exact_lat_integers(
    groups: Tensor, curvature: Tensor, *, whole: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return codes and scales as `lat_integers`; see `exact_lat_grid`."""
    return _on_grid(groups, exact_lat_grid(groups if whole is None else whole, curvature))


def twn_grid(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return TWN's cut and scale (arXiv 1605.04711).

    Weights above 0.7 mean|w| are kept, the scale is the mean size of those kept.
    """
    size = groups.abs()
    cut = TWN_THRESHOLD * size.mean(dim=-1, keepdim=True)
    return cut, _weighted_mean(size, (size > cut).to(groups.dtype))


def lat_grid(groups: Tensor, curvature: Tensor, *, rounds: int = ROUNDS) -> tuple[Tensor, Tensor]:
    """Return the loss-aware cut and scale by alternation (TernaryBERT, arXiv 2009.12812).

    Lowers sum d (w - alpha b)^2 over alpha and b in turn, from TWN's b on: alpha is the d-weighted
    mean of |w| where b is not 0, and b is not 0 where |w| > alpha / 2. `curvature` d > 0 has the
    shape of `groups`. Stops at a fixed point, a local optimum, or after `rounds`.
    """
    size, (cut, _) = groups.abs(), twn_grid(groups)
    kept = size > cut
    scale = _weighted_mean(size, curvature * kept)
    for _ in range(rounds):
        wanted = size > scale / 2
        if torch.equal(wanted, kept):
            break
        cut, kept = scale / 2, wanted
        scale = _weighted_mean(size, curvature * kept)
    return cut, scale


def exact_lat_grid(groups: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss-aware cut and scale of the global optimum, at the price of a sort.

    For a fixed alpha the best b keeps |w| > alpha / 2, so some k largest weights are kept; with
    those, the least loss is sum d w^2 - (sum_k d |w|)^2 / sum_k d (arXiv 1802.08635).
    """
    size = groups.abs()
    ordered, order = size.double().sort(dim=-1, descending=True)
    weights = curvature.double().gather(-1, order)
    mass, total = (weights * ordered).cumsum(-1), weights.cumsum(-1)  # (..., n), of the k largest
    best = (mass.square() / total).argmax(dim=-1, keepdim=True)
    half = (mass.gather(-1, best) / total.gather(-1, best) / 2).to(size.dtype)
    return half, _weighted_mean(size, curvature * (size > half))


def _on_grid(groups: Tensor, grid: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    cut, scale = grid
    return groups.sign().mul_(groups.abs() > cut), scale


def _weighted_mean(size: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of the last dimension, 0 where nothing has a weight."""
    total = weights.sum(dim=-1, keepdim=True)
    mass = (size * weights).sum(dim=-1, keepdim=True)
    return torch.where(total > 0, mass / total, 0.0)


BINS = 2048


def kl_clip(x: Tensor, *, levels: int) -> float:
    """Return the clip of |x| whose `levels` quantized values diverge least from |x|, above 0.

    TensorRT's calibration: for each number i of the 2048 bins of |x|, P is the first i bins with
    the rest added to the last, Q those bins merged to `levels` runs, each spread evenly over its
    bins that are not empty. The i of least KL(P || Q) wins, the smallest of equals; its right edge
    is the clip. An all-zero tensor gives 0.
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


TRUNCATED = 0.05


def initial_step(groups: Tensor, init: StepInit, top: int) -> Tensor:
    """Return the first step of each group (..., n), shape (...), for integers up to `top`.

    `mean_abs`: 2 mean|x| / sqrt(top) (LSQ, arXiv 1902.08153); the others divide a
    clip by `top`: `max` max|x|; `truncation` the larger end after 2.5 % of the values are cut at
    either end; `kl` the clip of least divergence (both KDLSQ-BERT, arXiv 2101.05938).

    Raises:
        QualaError: for another rule, or for `kl` on more than one group: a row has too few values
            for a histogram.
    """
    return step_of(spread(groups, init, top), init, top)


def spread(groups: Tensor, init: StepInit, top: int) -> Tensor:
    """Return what `step_of` makes the step of: 2 mean|x| for `mean_abs`, else the clip, (...)."""
    if init not in get_args(StepInit):
        raise unknown("step initialization", init, get_args(StepInit))
    if init == "mean_abs":
        return groups.abs().mean(dim=-1).mul_(2)
    if init == "max":
        return groups.abs().amax(dim=-1)
    if init == "truncation":
        return _truncated(groups)
    if groups.numel() != groups.shape[-1]:
        raise QualaError(
            f"Step initialization `kl` got {groups.numel() // groups.shape[-1]} groups; "
            "allowed is one, with granularity `tensor`."
        )
    clip = groups.new_tensor(kl_clip(groups, levels=top + 1))
    return clip.expand(groups.shape[:-1]).clone()


def step_of(spread: Tensor, init: StepInit, top: int) -> Tensor:
    """Return the step that the `spread` of a rule gives on a grid up to `top`."""
    divisor = math.sqrt(top) if init == "mean_abs" else top
    return (spread / divisor).clamp_(min=SMALLEST_STEP)


def _truncated(groups: Tensor) -> Tensor:
    values = groups.shape[-1]
    cut = int(values * TRUNCATED / 2)
    low = groups.kthvalue(cut + 1, dim=-1).values
    high = groups.kthvalue(values - cut, dim=-1).values
    return torch.maximum(low.abs(), high.abs())
