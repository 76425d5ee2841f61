"""Codes and scales against slow references and exhaustive search; first steps of LSQ."""

from __future__ import annotations

import itertools
import math
from bisect import bisect
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from quala.compress.quantize.config import StepInit
from quala.compress.quantize.grids import (
    BINS,
    bwn_codes,
    divergence,
    exact_lat_codes,
    initial_step,
    kl_clip,
    lat_codes,
    minmax_codes,
    tensorrt_clip,
    twn_codes,
)
from quala.errors import QualaError


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
def test_codes_and_scale_have_the_least_squared_error_of_all(seed: int) -> None:
    w = _noise(8, seed=seed)
    losses = {}
    for signs in itertools.product((-1.0, 1.0), repeat=8):
        b = torch.tensor(signs, dtype=torch.float64)
        alpha = (w @ b) / (b @ b)  # least squares of w = alpha b
        losses[signs] = ((w - alpha * b).square().sum().item(), alpha.item())
    codes, scale = bwn_codes(w, w)
    assert (w - scale * codes).square().sum().item() == pytest.approx(
        min(loss for loss, _ in losses.values()), rel=1e-12
    )
    assert scale.item() == pytest.approx(losses[tuple(codes.tolist())][1], rel=1e-12)


def test_each_group_has_its_own_scale() -> None:
    groups = torch.tensor([[1.0, -3.0], [0.5, 0.5]])
    codes, scale = bwn_codes(groups, groups)
    assert scale.tolist() == [[2.0], [0.5]]
    assert codes.tolist() == [[1, -1], [1, 1]]


def test_zero_counts_as_positive() -> None:
    codes, scale = bwn_codes(torch.zeros(1, 3), torch.zeros(1, 3))
    assert codes.tolist() == [[1, 1, 1]]
    assert scale.tolist() == [[0]]


def _curvature(*shape: int, seed: int = 0) -> Tensor:
    return _noise(*shape, seed=seed + 100).exp()


def _loss(w: Tensor, d: Tensor, codes: Tensor, scale: Tensor) -> float:
    return float((d * (w - scale * codes).square()).sum())


def _best(w: list[float], d: list[float]) -> float:
    """Return the least loss over all thresholds, each with its best scale."""
    losses = []
    for threshold in [-1.0, *map(abs, w)]:
        kept = [abs(x) > threshold for x in w]
        mass = sum(di * abs(x) for x, di, k in zip(w, d, kept) if k)
        total = sum(di for di, k in zip(d, kept) if k)
        alpha = mass / total if total else 0.0
        losses.append(
            sum(di * ((abs(x) - alpha) ** 2 if k else x * x) for x, di, k in zip(w, d, kept))
        )
    return min(losses)


@pytest.mark.parametrize("seed", range(4))
def test_twn_is_the_formula_value_by_value(seed: int) -> None:
    w = _noise(37, seed=seed).tolist()
    threshold = 0.7 * sum(map(abs, w)) / 37
    kept = [abs(x) for x in w if abs(x) > threshold]
    codes, scale = twn_codes(*[torch.tensor(w, dtype=torch.float64)] * 2)
    assert scale.item() == pytest.approx(sum(kept) / len(kept), rel=1e-12)
    assert codes.tolist() == [(x > threshold) - (x < -threshold) for x in w]


@pytest.mark.parametrize("seed", range(4))
def test_twn_comes_close_to_the_best_threshold_of_normal_weights(seed: int) -> None:
    w = _noise(400, seed=seed)
    loss, best = _loss(w, torch.ones(400), *twn_codes(w, w)), _best(w.tolist(), [1.0] * 400)
    assert best <= loss * (1 + 1e-12)
    assert loss < 1.05 * best


@pytest.mark.parametrize("seed", range(30))
def test_the_exact_search_finds_the_best_of_all_thresholds(seed: int) -> None:
    w, d = _noise(11, seed=seed), _curvature(11, seed=seed)
    found = _loss(w, d, *exact_lat_codes(w, w, 1, d))
    assert found == pytest.approx(_best(w.tolist(), d.tolist()), rel=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_alternation_ends_in_a_fixed_point_no_worse_than_its_start(seed: int) -> None:
    w, d = _noise(11, seed=seed), _curvature(11, seed=seed)
    codes, scale = lat_codes(w, w, 1, d)
    loss = _loss(w, d, codes, scale)
    start, _ = twn_codes(w, w)
    start_scale = (d * w * start).sum() / (d * start.abs()).sum()
    assert torch.equal(codes, w.sign() * (w.abs() > scale / 2))
    assert scale.item() == pytest.approx(
        ((d * w * codes).sum() / (d * codes.abs()).sum()).item(), rel=1e-12
    )
    assert _best(w.tolist(), d.tolist()) <= loss * (1 + 1e-12)
    assert loss <= _loss(w, d, start, start_scale) * (1 + 1e-12)


def test_alternation_mostly_finds_the_global_optimum_of_normal_weights() -> None:
    w, d = _noise(50, 64), _curvature(50, 64)
    codes, scale = lat_codes(w, w, 1, d)
    best, exact = exact_lat_codes(w, w, 1, d)
    losses = [(d * (w - s * c).square()).sum(-1) for c, s in ((codes, scale), (best, exact))]
    assert (losses[0] <= losses[1] * (1 + 1e-9)).double().mean() > 0.5
    assert (losses[0] < losses[1] * 1.2).all()


def test_curvature_decides_what_is_kept() -> None:
    w = torch.tensor([1.0, 0.8, 0.35])
    flat, _ = exact_lat_codes(w, w, 1, torch.ones(3))
    steep, scale = exact_lat_codes(w, w, 1, torch.tensor([0.01, 0.01, 10.0]))
    assert flat.tolist() == [1, 1, 0]
    assert steep.tolist() == [1, 1, 1]
    assert scale.item() == pytest.approx(0.35, abs=0.01)


@pytest.mark.parametrize("solve", [twn_codes, lat_codes, exact_lat_codes])
def test_each_group_is_solved_alone(solve: object) -> None:
    assert callable(solve)
    groups, d = _noise(2, 3, 16), _curvature(2, 3, 16)
    more = () if solve is twn_codes else (d,)
    codes, scale = solve(groups, groups, 1, *more)
    for i in range(2):
        for j in range(3):
            one, alpha = solve(groups[i, j], groups[i, j], 1, *(part[i, j] for part in more))
            assert torch.equal(codes[i, j], one)
            assert torch.allclose(scale[i, j], alpha, rtol=1e-14)


@pytest.mark.parametrize("solve", [twn_codes, lat_codes, exact_lat_codes])
def test_zeros_stay_zeros(solve: object) -> None:
    assert callable(solve)
    more = () if solve is twn_codes else (torch.ones(2, 4),)
    codes, scale = solve(torch.zeros(2, 4), torch.zeros(2, 4), 1, *more)
    assert codes.abs().sum() == 0
    assert scale.tolist() == [[0], [0]]


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
    clip = tensorrt_clip(x, levels=8)
    chosen = round(clip / top * BINS)
    best = _slow(counts, chosen, 8)
    assert all(best <= _slow(counts, kept, 8) + 1e-12 for kept in candidates)


def test_a_flat_distribution_is_not_clipped() -> None:
    x = torch.linspace(-1, 1, 20481)
    assert tensorrt_clip(x, levels=8) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("clip", [kl_clip, tensorrt_clip])
def test_zeros_have_no_clip(clip: Callable[..., float]) -> None:
    assert clip(torch.zeros(9), levels=8) == 0


def _line(at: float, values: list[float]) -> float:
    """Return the value at a place from 0 to 1 of points that are joined by straight lines."""
    place = at * (len(values) - 1)
    left = min(int(place), len(values) - 2)
    return values[left] + (place - left) * (values[left + 1] - values[left])


def _published_clip(x: list[float], bits: int) -> float:
    """Return the clip as KDLSQ-BERT's code defines it, cut by cut and bin by bin."""
    size = sorted(abs(value) for value in x)
    points, top = 2 ** (bits - 1), size[-1]
    edges = np.histogram_bin_edges(np.array(size), bins="sqrt", range=(0, top)).tolist()
    bins, width = len(edges) - 1, edges[1]
    if points + 1 > bins:
        return top
    below = [bisect(size, edge) / len(size) for edge in edges[1:-1]] + [1.0]
    clips = {}
    for cut in range(points + 1, bins + 1):
        kept = [*below[: cut - 1], 1.0]
        coarse = [_line(n / (points - 1), kept) for n in range(points)]
        fine = [_line(n / (cut - 1), coarse) for n in range(cut)] + [1.0] * (bins - cut)
        lost = sum((c - q) * math.log2(c / q) for c, q in zip(below, fine))
        clips.setdefault(round(lost, 9), (cut + 0.5) * width)
    return clips[min(clips)]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("power", [1, 3])
@pytest.mark.parametrize("count", [900, 20_001])
def test_kl_clips_as_the_published_code_does(bits: int, power: int, count: int) -> None:
    x = torch.randn(count, generator=torch.Generator().manual_seed(bits)) ** power
    expected = _published_clip(x.tolist(), bits)
    assert kl_clip(x, levels=2 ** (bits - 1)) == pytest.approx(expected, rel=1e-5)


def test_kl_keeps_two_bits_of_normal_weights_near_their_best_clip() -> None:
    x = _steps_noise(384 * 384)
    assert 1.3 < kl_clip(x, levels=2) < 1.7  # the least squared error is at 1.22
    assert tensorrt_clip(x, levels=2) > 2


def test_kl_without_values_near_zero_stays_cheap_and_finite() -> None:
    x = 1 + 1e-4 * torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    assert 0.5 < kl_clip(x, levels=8) < 1.1
    assert kl_clip(torch.full((9,), -3.0), levels=2) == 3.0


def _steps_noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_mean_abs_is_the_published_start() -> None:
    x = _steps_noise(60).tolist()
    expected = 2 * sum(map(abs, x)) / 60 / math.sqrt(7)
    assert initial_step(torch.tensor(x), "mean_abs", 7).item() == pytest.approx(expected, rel=1e-6)


def test_max_ends_the_grid_at_the_largest_value() -> None:
    assert initial_step(torch.tensor([0.5, -2.1, 1.0]), "max", 7).item() == pytest.approx(0.3)


def test_truncation_cuts_two_and_a_half_percent_at_either_end() -> None:
    values = [*range(-99, 100), 1000]  # 200 values: five are cut at either end
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    x = torch.tensor(values, dtype=torch.float32)[order]
    assert initial_step(x, "truncation", 1).item() == max(-sorted(values)[5], sorted(values)[-6])


@pytest.mark.parametrize("init", ["mean_abs", "max", "truncation"])
def test_each_group_starts_alone(init: StepInit) -> None:
    groups = _steps_noise(3, 4, 50)
    together = initial_step(groups, init, 3)
    assert together.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            alone = initial_step(groups[i, j], init, 3).item()
            assert together[i, j].item() == pytest.approx(alone, rel=1e-6)


def test_clipping_rules_lie_below_the_largest_value() -> None:
    x = torch.cat([_steps_noise(5000), torch.tensor([40.0])])  # one outlier
    largest = initial_step(x, "max", 7)
    assert initial_step(x, "truncation", 7) < largest / 10
    assert initial_step(x, "kl", 7) < largest / 2


HISTOGRAMS: tuple[tuple[StepInit, Callable[..., float]], ...] = (
    ("kl", kl_clip), ("tensorrt", tensorrt_clip)
)  # fmt: skip


@pytest.mark.parametrize(("init", "clip"), HISTOGRAMS)
def test_one_group_may_be_shaped_as_a_tensor_of_groups(
    init: StepInit, clip: Callable[..., float]
) -> None:
    x = _steps_noise(1, 1, 500)
    assert initial_step(x, init, 7).shape == (1, 1)
    assert initial_step(x, init, 7).item() == pytest.approx(clip(x, levels=8) / 7)


@pytest.mark.parametrize("init", ["kl", "tensorrt"])
def test_histograms_refuse_rows(init: StepInit) -> None:
    with pytest.raises(QualaError, match=f"`{init}` got 3 groups"):
        initial_step(_steps_noise(3, 50), init, 7)


def test_another_rule_is_refused() -> None:
    with pytest.raises(QualaError, match="mean_abs"):
        initial_step(_steps_noise(5), "mean", 7)  # type: ignore[arg-type]


@pytest.mark.parametrize("init", ["mean_abs", "max", "truncation", "kl", "tensorrt"])
def test_zeros_start_with_a_positive_step(init: StepInit) -> None:
    assert initial_step(torch.zeros(100), init, 3) > 0


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rows_use_their_own_largest_weight(bits: int) -> None:
    weight = _steps_noise(4, 30) * torch.tensor([[0.01], [1.0], [10.0], [0.0]])
    integers, step = minmax_codes(weight, weight, 2 ** (bits - 1) - 1)
    top = 2 ** (bits - 1) - 1
    assert integers.abs().amax(dim=1).tolist() == [top, top, top, 0]
    assert ((integers * step - weight).abs() <= step / 2 * (1 + 1e-5)).all()


def test_rows_leave_weights_on_the_grid_alone() -> None:
    weight = torch.tensor([[127.0, -3.0, 0.0], [-1.27, 0.5, 0.25]])
    integers, step = minmax_codes(weight, weight, 127)
    assert torch.allclose(integers * step, weight, rtol=1e-6)


def test_rows_equal_the_kernel_of_torch() -> None:
    weight = _steps_noise(6, 40)
    scale = weight.abs().amax(dim=1) / 127
    zeros = torch.zeros(6, dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -127, 127)
    integers, step = minmax_codes(weight, weight, 127)
    assert torch.allclose(integers * step, expected, atol=1e-6)
