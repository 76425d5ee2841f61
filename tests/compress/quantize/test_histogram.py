from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from quala.compress.quantize.grids import BINS, divergence, kl_clip


def _slow(counts: list[float], kept: int, levels: int) -> float:
    """Return KL(P || Q) by the definition, bin by bin."""
    p = counts[:kept]
    q = [0.0] * kept
    for level in range(levels):
        run = range(level * kept // levels, (level + 1) * kept // levels)
        filled = [i for i in run if counts[i] > 0]
        for i in filled:
            q[i] = sum(counts[j] for j in run) / len(filled)
    p[-1] += sum(counts[kept:])
    total, mass = sum(p), sum(q)
    divergence = 0.0
    for a, b in zip(p, q):
        if a > 0 and b == 0:
            return math.inf
        if a > 0:
            divergence += a / total * math.log((a / total) / (b / mass))
    return divergence


@pytest.mark.parametrize("levels", [2, 3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_divergence_is_the_definition(levels: int, seed: int) -> None:
    counts = np.random.default_rng(seed).poisson(1.5, 40).astype(float)
    for kept in range(levels, 41):
        slow = _slow(counts.tolist(), kept, levels)
        assert divergence(counts, kept, levels) == pytest.approx(slow, rel=1e-10, abs=1e-12)


def test_the_clip_has_the_least_divergence_of_all_bins() -> None:
    x = torch.randn(3000, generator=torch.Generator().manual_seed(0)) ** 3
    top = x.abs().max().item()
    counts = torch.histc(x.abs(), bins=BINS, min=0, max=top).double().tolist()
    candidates = range(8, BINS + 1, 40)
    clip = kl_clip(x, levels=8)
    chosen = round(clip / top * BINS)
    best = _slow(counts, chosen, 8)
    assert all(best <= _slow(counts, kept, 8) + 1e-12 for kept in candidates)


def test_a_flat_distribution_is_not_clipped() -> None:
    x = torch.linspace(-1, 1, 20481)
    assert kl_clip(x, levels=8) == pytest.approx(1, abs=0.01)


def test_zeros_have_no_clip() -> None:
    assert kl_clip(torch.zeros(9), levels=8) == 0
