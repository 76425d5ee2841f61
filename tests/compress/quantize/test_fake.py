from __future__ import annotations

import pytest
import torch
from torch import Tensor

from quala.compress.quantize.config import QuantizeConfig, RangeKind
from quala.compress.quantize.modules import ActivationQuantizer


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
    quantizer.finalise()
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
    quantizer.finalise()
    quantizer.mode = "fake"
    assert quantizer(torch.zeros(5)).tolist() == [0.0] * 5


def test_training_averages_the_range_until_frozen() -> None:
    quantizer = _quantizer("ema", ema_decay=0.5)
    quantizer.observe(_span(-1.0, 1.0))
    quantizer.finalise()
    quantizer.mode = "fake"
    quantizer.train()(_span(-1.0, 9.0))
    moved = quantizer.step.item()
    quantizer.frozen = True
    quantizer(_span(-1.0, 50.0))
    assert moved > 2 / 255
    assert quantizer.step.item() == moved


def test_evaluation_never_moves_the_range() -> None:
    quantizer = _quantizer("ema")
    quantizer.observe(_span(-1.0, 1.0))
    quantizer.finalise()
    quantizer.mode = "fake"
    before = quantizer.step.item()
    quantizer.eval()(_span(-1.0, 9.0))
    assert quantizer.step.item() == before


def test_a_learned_step_stays_positive_and_recovers() -> None:
    quantizer = _quantizer("lsq")
    quantizer.observe(_span(-1.0, 1.0))
    quantizer.finalise()
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
    quantizer.finalise()
    quantizer.mode = "fake"
    optimiser = torch.optim.Adam(quantizer.parameters(), lr=0.01)
    errors = []
    for _ in range(60):
        loss = (quantizer(x) - x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(loss.item())
    assert errors[-1] < 0.8 * errors[0]


def _learned(init: str, bits: int, *batches: Tensor) -> ActivationQuantizer:
    quantizer = ActivationQuantizer(
        QuantizeConfig(activation_range="lsq", activation_init=init, activation_bits=bits)  # type: ignore[arg-type]
    )
    for batch in batches:
        quantizer.observe(batch)
    quantizer.finalise()
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


def test_kl_clips_outliers() -> None:
    batches = [torch.cat([batch.flatten(), torch.tensor([60.0])]) for batch in _batches()]
    assert _learned("kl", 4, *batches).step < _learned("max", 4, *batches).step / 2


@pytest.mark.parametrize("init", ["mean_abs", "max", "truncation", "kl"])
def test_every_start_rounds_and_learns(init: str) -> None:
    x = _batches()[0]
    quantizer = _learned(init, 3, x)
    quantizer.mode = "fake"
    rounded = quantizer(x)
    (rounded - x).square().sum().backward()
    assert len(rounded.unique()) <= 8
    assert quantizer.step.grad is not None
    assert quantizer.step.grad.isfinite()
