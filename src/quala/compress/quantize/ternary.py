"""Ternary weights with one scale per group: by TWN's threshold, or by a diagonal Hessian.

Groups are (..., n). A grid decides about each weight alone: those above its `cut` (..., 1) in size
are kept, as plus or minus its `scale` (..., 1). Codes are -1, 0 and 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
