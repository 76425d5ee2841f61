"""Fake quantizers: ranges, learned steps, weights per tensor, row and group."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from quala.compress.quantize.config import (
    Granularity,
    QuantizeConfig,
    RangeKind,
    WeightMethod,
    WeightSpec,
)
from quala.compress.quantize.modules import ActivationQuantizer, WeightQuantizer
from quala.errors import QualaError


def _quantizer(kind: RangeKind, **more: float) -> ActivationQuantizer:
    return ActivationQuantizer(QuantizeConfig(activation_range=kind, **more))  # type: ignore[arg-type]


def _span(low: float, high: float) -> Tensor:
    return torch.tensor([low, 0.1, high])


def test_min_max_keeps_the_extremes_of_all_tensors() -> None:
    quantizer = _quantizer("minmax")
    for low, high in ((-1.0, 2.0), (-3.0, 1.0), (-0.5, 0.5)):
        quantizer.observe(_span(low, high))
    assert (quantizer.low.item(), quantizer.high.item()) == (-3, 2)


def test_moving_average_of_a_constant_range_is_that_range_from_the_start() -> None:
    quantizer = _quantizer("ema", ema_decay=0.99)
    for _ in range(3):
        quantizer.observe(_span(-1.0, 4.0))
        assert quantizer.low.item() == pytest.approx(-1)
        assert quantizer.high.item() == pytest.approx(4)


def test_moving_average_equals_the_bias_corrected_formula() -> None:
    quantizer, decay, biased = _quantizer("ema", ema_decay=0.9), 0.9, 0.0
    for high in (1.0, 5.0, 2.0, 8.0):
        quantizer.observe(_span(-1.0, high))
        biased = decay * biased + (1 - decay) * high
    assert quantizer.high.item() == pytest.approx(biased / (1 - decay**4), rel=1e-5)


def test_moving_average_converges_to_a_changed_range() -> None:
    quantizer = _quantizer("ema", ema_decay=0.9)
    for high in [10.0] + [2.0] * 100:
        quantizer.observe(_span(-1.0, high))
    assert quantizer.high.item() == pytest.approx(2, abs=1e-3)


def test_percentile_cuts_both_tails() -> None:
    quantizer = _quantizer("percentile", percentile=99.0)
    values = torch.linspace(-100, 100, 1001)
    quantizer.observe(values[torch.randperm(1001, generator=torch.Generator().manual_seed(0))])
    assert quantizer.low.item() == pytest.approx(-98, abs=0.3)
    assert quantizer.high.item() == pytest.approx(98, abs=0.3)


@pytest.mark.parametrize(("low", "high"), [(1.0, 3.0), (-3.0, -1.0), (-1.0, 2.0)])
def test_the_range_holds_zero_and_the_zero_point_is_an_integer(low: float, high: float) -> None:
    quantizer = _quantizer("minmax")
    quantizer.observe(torch.tensor([low, high]))
    quantizer.finalize()
    zero = quantizer.zero_point.item()
    assert zero == int(zero)
    assert 0 <= zero <= 255
    quantizer.mode = "fake"
    rounded = quantizer(torch.tensor([low, 0.0, high]))
    assert rounded[1] == 0
    assert torch.allclose(rounded, torch.tensor([low, 0.0, high]), atol=0.02)


@pytest.mark.parametrize("kind", ["minmax", "ema", "percentile", "lsq"])
def test_a_constant_zero_input_stays_zero(kind: RangeKind) -> None:
    quantizer = _quantizer(kind)
    quantizer.observe(torch.zeros(5))
    quantizer.finalize()
    quantizer.mode = "fake"
    assert quantizer(torch.zeros(5)).tolist() == [0.0] * 5


def test_training_averages_the_range() -> None:
    quantizer = _quantizer("ema", ema_decay=0.5)
    quantizer.observe(_span(-1.0, 1.0))
    quantizer.finalize()
    quantizer.mode = "fake"
    quantizer.train()(_span(-1.0, 9.0))
    moved = quantizer.step.item()
    assert moved > 2 / 255


def test_evaluation_never_moves_the_range() -> None:
    quantizer = _quantizer("ema")
    quantizer.observe(_span(-1.0, 1.0))
    quantizer.finalize()
    quantizer.mode = "fake"
    before = quantizer.step.item()
    quantizer.eval()(_span(-1.0, 9.0))
    assert quantizer.step.item() == before


def test_a_learned_step_stays_positive_and_recovers() -> None:
    quantizer = _quantizer("lsq")
    quantizer.observe(_span(-1.0, 1.0))
    quantizer.finalize()
    quantizer.mode = "fake"
    with torch.no_grad():
        quantizer.step.fill_(-1.0)
    x = _span(-1.0, 1.0)
    (quantizer(x) - x).square().sum().backward()
    assert quantizer.positive_step() > 0
    assert quantizer.step.grad is not None
    assert quantizer.step.grad < 0  # descent enlarges it


def test_training_a_learned_step_lowers_the_error_of_a_bad_start() -> None:
    quantizer = ActivationQuantizer(QuantizeConfig(activation_range="lsq", activation_bits=3))
    x = torch.randn(512, generator=torch.Generator().manual_seed(0))
    quantizer.observe(x)
    quantizer.finalize()
    quantizer.mode = "fake"
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.01)
    errors = []
    for _ in range(60):
        loss = (quantizer(x) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    assert errors[-1] < 0.8 * errors[0]


def _learned(init: str, bits: int, *batches: Tensor) -> ActivationQuantizer:
    quantizer = ActivationQuantizer(
        QuantizeConfig(activation_range="lsq", activation_init=init, activation_bits=bits)  # type: ignore[arg-type]
    )
    for batch in batches:
        quantizer.observe(batch)
    quantizer.finalize()
    return quantizer


def _batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(8, 50, generator=generator) for _ in range(3)]


def test_the_published_start_of_signed_inputs_is_mean_abs_on_a_symmetric_grid() -> None:
    batches = _batches()
    quantizer = _learned("mean_abs", 4, *batches)
    means = [batch.abs().mean().item() for batch in batches]
    assert quantizer.step.item() == pytest.approx(2 * sum(means) / 3 / 7**0.5, rel=1e-5)
    assert quantizer.zero_point.item() == 8


def test_inputs_that_are_never_negative_use_the_whole_grid() -> None:
    quantizer = _learned("max", 4, torch.rand(50), torch.tensor([3.0, 0.0]))
    assert quantizer.zero_point.item() == 0
    assert quantizer.step.item() == pytest.approx(3 / 15)


def test_max_is_the_largest_of_all_batches() -> None:
    quantizer = _learned("max", 8, torch.tensor([-2.0, 1.0]), torch.tensor([0.5, -0.1]))
    assert quantizer.step.item() == pytest.approx(2 / 127)
    assert quantizer.zero_point.item() == 128


def test_truncation_is_the_mean_clip_of_the_batches() -> None:
    batches = _batches()
    clips = []
    for batch in batches:
        values = sorted(batch.flatten().tolist())
        clips.append(max(abs(values[10]), abs(values[-11])))  # 2.5 % of 400
    step = _learned("truncation", 8, *batches).step.item()
    assert step == pytest.approx(sum(clips) / 3 / 127, rel=1e-5)


def test_tensorrt_clips_outliers() -> None:
    batches = [torch.cat([batch.flatten(), torch.tensor([60.0])]) for batch in _batches()]
    assert _learned("tensorrt", 4, *batches).step < _learned("max", 4, *batches).step / 2


@pytest.mark.parametrize("init", ["mean_abs", "max", "truncation", "kl", "tensorrt"])
def test_every_start_rounds_and_learns(init: str) -> None:
    x = _batches()[0]
    quantizer = _learned(init, 3, x)
    quantizer.mode = "fake"
    rounded = quantizer(x)
    (rounded - x).square().sum().backward()
    assert len(rounded.unique()) <= 8
    assert quantizer.step.grad is not None
    assert quantizer.step.grad.isfinite()


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


def _weight_quantizer(weight: Tensor, *words: Any, **names: Any) -> WeightQuantizer:
    quantizer = WeightQuantizer(weight, WeightSpec(*words, **names))
    if "curvature" in dict(quantizer.named_buffers()):
        quantizer.curvature.copy_(_noise(*weight.shape, seed=9).exp())
    return quantizer


@pytest.mark.parametrize(("method", "bits"), METHODS)
def test_groups_are_tensors_of_their_own(method: WeightMethod, bits: int) -> None:
    weight = _noise(4, 24)
    whole = _weight_quantizer(weight, method, bits, "group", 8)
    rounded = whole(weight)
    for row in range(4):
        for start in (0, 8, 16):
            part = weight[row : row + 1, start : start + 8]
            alone = WeightQuantizer(part, WeightSpec(method, bits, "tensor"))
            if method.startswith("lat"):
                assert alone.curvature is not None
                assert whole.curvature is not None
                alone.curvature.copy_(whole.curvature[row : row + 1, start : start + 8])
            assert torch.allclose(rounded[row, start : start + 8], alone(part)[0], rtol=1e-5)


@pytest.mark.parametrize(("method", "bits"), METHODS)
def test_rows_are_tensors_of_their_own(method: WeightMethod, bits: int) -> None:
    weight = _noise(3, 24)
    whole = _weight_quantizer(weight, method, bits, "row")
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
    quantizer = _weight_quantizer(weight, method, bits, granularity, 8)
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
        quantizer = _weight_quantizer(table.detach(), method, bits, granularity, 8)
        rows = quantizer(table[ids], ids=ids, table=table) if gather else quantizer(table)[ids]
        learned = [table, *quantizer.parameters()]
        results.append((rows, *torch.autograd.grad(rows, learned, upstream)))
    (rows, *gathered), (expected, *whole) = results
    assert torch.equal(rows, expected)
    for one, other in zip(gathered, whole, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("method", "bits"), [m for m in METHODS if m[0] != "lsq"])
def test_the_gradient_passes_unchanged(method: WeightMethod, bits: int) -> None:
    weight, upstream = _noise(3, 8).requires_grad_(), _noise(3, 8, seed=1)
    _weight_quantizer(weight, method, bits)(weight).backward(upstream)
    assert weight.grad is not None
    assert torch.equal(weight.grad, upstream)


def test_training_lsq_lowers_the_error_of_its_start() -> None:
    weight = _noise(4, 200)
    quantizer = WeightQuantizer(weight, WeightSpec("lsq", 3, init="max"))
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.02)
    errors = []
    for _ in range(60):
        loss = (quantizer(weight) - weight).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
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
