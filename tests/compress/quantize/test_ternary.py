from __future__ import annotations

import pytest
import torch
from torch import Tensor

from quala.compress.quantize.grids import exact_lat_integers, lat_integers, twn_integers


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
    codes, scale = twn_integers(torch.tensor(w, dtype=torch.float64))
    assert scale.item() == pytest.approx(sum(kept) / len(kept), rel=1e-12)
    assert codes.tolist() == [(x > threshold) - (x < -threshold) for x in w]


@pytest.mark.parametrize("seed", range(4))
def test_twn_comes_close_to_the_best_threshold_of_normal_weights(seed: int) -> None:
    w = _noise(400, seed=seed)
    loss, best = _loss(w, torch.ones(400), *twn_integers(w)), _best(w.tolist(), [1.0] * 400)
    assert best <= loss * (1 + 1e-12)
    assert loss < 1.05 * best


@pytest.mark.parametrize("seed", range(30))
def test_the_exact_search_finds_the_best_of_all_thresholds(seed: int) -> None:
    w, d = _noise(11, seed=seed), _curvature(11, seed=seed)
    found = _loss(w, d, *exact_lat_integers(w, d))
    assert found == pytest.approx(_best(w.tolist(), d.tolist()), rel=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_alternation_ends_in_a_fixed_point_no_worse_than_its_start(seed: int) -> None:
    w, d = _noise(11, seed=seed), _curvature(11, seed=seed)
    codes, scale = lat_integers(w, d)
    loss = _loss(w, d, codes, scale)
    start, _ = twn_integers(w)
    start_scale = (d * w * start).sum() / (d * start.abs()).sum()
    assert torch.equal(codes, w.sign() * (w.abs() > scale / 2))
    assert scale.item() == pytest.approx(
        ((d * w * codes).sum() / (d * codes.abs()).sum()).item(), rel=1e-12
    )
    assert _best(w.tolist(), d.tolist()) <= loss * (1 + 1e-12)
    assert loss <= _loss(w, d, start, start_scale) * (1 + 1e-12)


def test_alternation_mostly_finds_the_global_optimum_of_normal_weights() -> None:
    w, d = _noise(50, 64), _curvature(50, 64)
    codes, scale = lat_integers(w, d)
    best, exact = exact_lat_integers(w, d)
    losses = [(d * (w - s * c).square()).sum(-1) for c, s in ((codes, scale), (best, exact))]
    assert (losses[0] <= losses[1] * (1 + 1e-9)).double().mean() > 0.5
    assert (losses[0] < losses[1] * 1.2).all()


def test_curvature_decides_what_is_kept() -> None:
    w = torch.tensor([1.0, 0.8, 0.35])
    flat, _ = exact_lat_integers(w, torch.ones(3))
    steep, scale = exact_lat_integers(w, torch.tensor([0.01, 0.01, 10.0]))
    assert flat.tolist() == [1, 1, 0]
    assert steep.tolist() == [1, 1, 1]
    assert scale.item() == pytest.approx(0.35, abs=0.01)


@pytest.mark.parametrize("solve", [twn_integers, lat_integers, exact_lat_integers])
def test_each_group_is_solved_alone(solve: object) -> None:
    assert callable(solve)
    groups, d = _noise(2, 3, 16), _curvature(2, 3, 16)
    more = () if solve is twn_integers else (d,)
    codes, scale = solve(groups, *more)
    for i in range(2):
        for j in range(3):
            one, alpha = solve(groups[i, j], *(part[i, j] for part in more))
            assert torch.equal(codes[i, j], one)
            assert torch.allclose(scale[i, j], alpha, rtol=1e-14)


@pytest.mark.parametrize("solve", [twn_integers, lat_integers, exact_lat_integers])
def test_zeros_stay_zeros(solve: object) -> None:
    assert callable(solve)
    more = () if solve is twn_integers else (torch.ones(2, 4),)
    codes, scale = solve(torch.zeros(2, 4), *more)
    assert codes.abs().sum() == 0
    assert scale.tolist() == [[0], [0]]
