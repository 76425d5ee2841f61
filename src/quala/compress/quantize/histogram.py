"""The clip that keeps the most of a distribution: least KL divergence over a histogram."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
