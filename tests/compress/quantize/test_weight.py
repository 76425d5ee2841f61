from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from quala.compress.quantize.config import Granularity, WeightMethod, WeightSpec
from quala.compress.quantize.modules import WeightQuantizer
from quala.errors import QualaError

METHODS: list[tuple[WeightMethod, int]] = [
    ("minmax", 2),
    ("minmax", 8),
    ("lsq", 2),
    ("lsq", 4),
    ("lsq", 8),
    ("bwn", 1),
    ("twn", 2),
    ("lat", 2),
    ("lat_exact", 2),
]
GRANULARITIES: list[Granularity] = ["tensor", "row", "group"]


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _quantizer(weight: Tensor, *words: Any, **names: Any) -> WeightQuantizer:
    quantizer = WeightQuantizer(weight, WeightSpec(*words, **names))
    if "curvature" in dict(quantizer.named_buffers()):
        quantizer.curvature.copy_(_noise(*weight.shape, seed=9).exp())
    return quantizer


@pytest.mark.parametrize(("method", "bits"), METHODS)
def test_groups_are_tensors_of_their_own(method: WeightMethod, bits: int) -> None:
    weight = _noise(4, 24)
    whole = _quantizer(weight, method, bits, "group", 8)
    rounded = whole(weight)
    for row in range(4):
        for start in (0, 8, 16):
            part = weight[row : row + 1, start : start + 8]
            alone = WeightQuantizer(part, WeightSpec(method, bits, "tensor"))
            if method.startswith("lat"):
                alone.curvature.copy_(whole.curvature[row : row + 1, start : start + 8])
            assert torch.allclose(rounded[row, start : start + 8], alone(part)[0], rtol=1e-5)


@pytest.mark.parametrize(("method", "bits"), METHODS)
def test_rows_are_tensors_of_their_own(method: WeightMethod, bits: int) -> None:
    weight = _noise(3, 24)
    whole = _quantizer(weight, method, bits, "row")
    rounded = whole(weight)
    for row in range(3):
        part = weight[row : row + 1]
        alone = WeightQuantizer(part, WeightSpec(method, bits, "tensor"))
        if method.startswith("lat"):
            alone.curvature.copy_(whole.curvature[row : row + 1])
        assert torch.allclose(rounded[row], alone(part)[0], rtol=1e-5)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(("method", "bits"), METHODS)
def test_integers_are_the_rounded_weight_to_the_bit(
    method: WeightMethod, bits: int, granularity: Granularity
) -> None:
    weight = _noise(4, 24)
    quantizer = _quantizer(weight, method, bits, granularity, 8)
    codes, scale = quantizer.integers(weight)
    rows, groups = {"tensor": (1, 1), "row": (4, 1), "group": (4, 3)}[granularity]
    assert scale.shape == (rows, groups)
    wide = scale.expand(4, groups).repeat_interleave(24 // groups, dim=1)
    assert torch.equal(codes * wide, quantizer(weight))
    assert torch.equal(codes, codes.round())
    assert codes.abs().max() <= quantizer.spec.top


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(("method", "bits"), METHODS)
def test_gathered_rows_are_rounded_and_taught_as_in_the_table(
    method: WeightMethod, bits: int, granularity: Granularity
) -> None:
    table, ids = _noise(6, 16).requires_grad_(), torch.tensor([[5, 0, 0], [2, 3, 5]])
    upstream = _noise(2, 3, 16, seed=1)
    results = []
    for gather in (True, False):
        quantizer = _quantizer(table.detach(), method, bits, granularity, 8)
        rows = quantizer.rows(table[ids], ids, table) if gather else quantizer(table)[ids]
        learned = [table, *quantizer.parameters()]
        results.append((rows, *torch.autograd.grad(rows, learned, upstream)))
    (rows, *gathered), (expected, *whole) = results
    assert torch.equal(rows, expected)
    for one, other in zip(gathered, whole, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("method", "bits"), [m for m in METHODS if m[0] != "lsq"])
def test_the_gradient_passes_unchanged(method: WeightMethod, bits: int) -> None:
    weight, upstream = _noise(3, 8).requires_grad_(), _noise(3, 8, seed=1)
    _quantizer(weight, method, bits)(weight).backward(upstream)
    assert weight.grad is not None
    assert torch.equal(weight.grad, upstream)


def test_training_lsq_lowers_the_error_of_its_start() -> None:
    weight = _noise(4, 200)
    quantizer = WeightQuantizer(weight, WeightSpec("lsq", 3, init="max"))
    optimiser = torch.optim.Adam(quantizer.parameters(), lr=0.02)
    errors = []
    for _ in range(60):
        loss = (quantizer(weight) - weight).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(loss.item())
    assert errors[-1] < 0.8 * errors[0]


def test_only_lsq_and_loss_aware_weights_have_a_state() -> None:
    weight = _noise(3, 8)
    states = {m: set(WeightQuantizer(weight, WeightSpec(m, b)).state_dict()) for m, b in METHODS}
    assert states["lsq"] == {"step", "floor"}
    assert states["lat"] == states["lat_exact"] == {"curvature"}
    assert not states["minmax"] | states["bwn"] | states["twn"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "bwn", "bits": 2}, "only 1"),
        ({"method": "twn", "bits": 8}, "only 2"),
        ({"method": "lsq", "bits": 1}, "2 to 8"),
        ({"bits": 9}, "weight_bits"),
        ({"bits": 9, "name": "embedding"}, "embedding_bits"),
        ({"method": "xnor"}, "weight quantizer"),
        ({"granularity": "rows"}, "Did you mean `row`"),
        ({"init": "mean"}, "weight init"),
        ({"group": 0}, "weight_group"),
        ({"method": "lsq", "init": "kl"}, "allowed is `tensor`"),
    ],
)
def test_a_spec_that_does_not_exist_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(QualaError, match=message):
        WeightSpec(**wrong)
