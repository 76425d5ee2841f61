from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertForQuestionAnswering

from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.grids import bwn_codes, exact_lat_codes, twn_codes
from quala.compress.quantize.integer import IntegerLinear, to_integer
from quala.compress.quantize.modules import QuantEmbedding, QuantLinear
from quala.compress.quantize.split import Split, split_ternary, split_weights
from quala.compress.quantize.transform import calibrate, quantize
from quala.errors import QualaError

Inputs = dict[str, Tensor]


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _binary(groups: Tensor) -> Tensor:
    codes, scale = bwn_codes(groups, groups)
    return codes * scale


@pytest.mark.parametrize("shape", [(1, 1, 600), (12, 1, 80), (5, 3, 64)])
@pytest.mark.parametrize("seed", range(5))
def test_the_halves_add_up_before_and_after_rounding(shape: tuple[int, ...], seed: int) -> None:
    w = _noise(*shape, seed=seed) + 0.1
    first, second = split_weights(w)
    codes, scale = twn_codes(w, w)
    assert torch.allclose(first + second, w, rtol=0, atol=1e-12)
    assert torch.allclose(_binary(first) + _binary(second), codes * scale, rtol=0, atol=1e-12)
    for half in (first, second):
        mean = half.abs().mean(-1, keepdim=True)
        assert torch.allclose(mean, scale / 2, rtol=0, atol=1e-12)
        assert (half != 0).all()  # no sign hangs on a zero


def test_a_loss_aware_ternary_weight_splits_too() -> None:
    w = _noise(6, 1, 200)
    codes, scale = exact_lat_codes(w, w)
    first, second = split_weights(w, codes, scale)
    assert torch.allclose(first + second, w, rtol=0, atol=1e-12)
    assert torch.allclose(_binary(first) + _binary(second), codes * scale, rtol=0, atol=1e-12)


def test_weights_of_one_size_and_zeros_split() -> None:
    w = torch.tensor([[0.5, -0.5, 0.5], [0.0, 0.0, 0.0]], dtype=torch.float64)
    first, second = split_weights(w)
    assert torch.equal(first, w / 2)
    assert torch.equal(second, w / 2)


def _published(w: Tensor) -> tuple[list[float], list[float]]:
    """The paper's formulas on one row, weight by weight."""
    codes, scale = (part.tolist() for part in twn_codes(w, w))
    values, alpha = w.tolist(), scale[0]
    pairs = list(zip(values, codes, strict=True))
    mass = sum(abs(v) for v, c in pairs if c)
    below = sum(abs(v) for v, c in pairs if not c and v < 0)
    above = sum(abs(v) for v, c in pairs if not c and v > 0)
    a = (mass + below - above) / (2 * mass)
    zeros = sum(1 for _, c in pairs if not c)
    b = (alpha * len(values) - sum(map(abs, values))) / (2 * zeros)
    first = [a * v if c else (v + b if v > 0 else b) for v, c in pairs]
    second = [(1 - a) * v if c else (-b if v > 0 else v - b) for v, c in pairs]
    return first, second


def test_ordinary_weights_split_as_published() -> None:
    w = _noise(5, 90) - 0.2
    for row, *halves in zip(w, *split_weights(w), strict=True):
        for half, published in zip(halves, _published(row), strict=True):
            torch.testing.assert_close(half, torch.tensor(published).double(), atol=1e-6, rtol=0)


ONE_SIGN = torch.cat([torch.full((90,), 0.6), torch.full((2,), 20.0)]).double()


@pytest.mark.parametrize("sign", [1, -1])
def test_small_weights_of_one_sign_split_by_turns(sign: int) -> None:
    w = sign * ONE_SIGN * torch.linspace(0.9, 1, 92).double()
    assert not 0 < (w[90:].sum() - w[:90].sum()) / (2 * w[90:].sum()) < 1  # the published share
    first, second = split_weights(w)
    codes, scale = twn_codes(w, w)
    assert torch.allclose(first + second, w, rtol=0, atol=1e-12)
    assert torch.allclose(_binary(first) + _binary(second), codes * scale, rtol=0, atol=1e-12)


def test_each_row_splits_as_it_would_alone() -> None:
    w = torch.stack([ONE_SIGN, _noise(92), torch.zeros(92).double()])
    together, alone = split_weights(w), [split_weights(row) for row in w]
    for half in (0, 1):
        assert torch.equal(together[half], torch.stack([one[half] for one in alone]))


@pytest.mark.parametrize("seed", range(20))
def test_rows_of_any_tails_split_in_single_precision(seed: int) -> None:
    w = (_noise(40, 48, seed=seed).exp() ** (seed / 4)).float()  # from flat to one large weight
    w[::3] *= _noise(14, 48, seed=seed + 100).sign().float()
    codes, scale = twn_codes(w, w)
    first, second = split_weights(w)
    goal = codes * scale
    torch.testing.assert_close(first + second, w, rtol=1e-5, atol=1e-6 * float(w.abs().max()))
    error = (_binary(first) + _binary(second) - goal).abs().amax(-1, keepdim=True)
    assert (error <= 1e-5 * scale).all()


def test_a_scale_below_the_mean_keeps_the_function_and_shrinks_the_weights() -> None:
    w = torch.tensor([[1.0, -0.1, 0.1], [1.0, -0.9, 0.8]]).double()
    codes = torch.tensor([[1.0, 0, 0], [1.0, -1.0, 1.0]]).double()
    scale = torch.tensor([[0.2], [0.6]]).double()
    first, second = split_weights(w, codes, scale)
    assert torch.allclose(_binary(first) + _binary(second), codes * scale, rtol=0, atol=1e-12)
    ratio = (first + second) / w
    assert torch.allclose(ratio, ratio[:, :1].expand(2, 3), rtol=0, atol=1e-12)
    assert ((ratio > 0) & (ratio < 1)).all()


def test_codes_that_drop_the_largest_weight_are_refused() -> None:
    with pytest.raises(QualaError, match="drop a weight that is larger"):
        split_weights(torch.tensor([0.1, 2.0]), torch.tensor([1.0, 0]), torch.tensor([3.0]))


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(QualaError, match="not finite"):
        split_weights(torch.tensor([float("nan"), 2.0, 0.1]))


TERNARY: dict[str, Any] = {"weight_bits": 2, "weight_quantizer": "twn"}
EMBEDDINGS: dict[str, Any] = {"embedding_bits": 2, "embedding_quantizer": "twn"}


def _ternary(model: BertForQuestionAnswering, inputs: Inputs, **more: Any) -> None:
    quantize(model, QuantizeConfig(**TERNARY | more))
    calibrate(model, lambda: _forward(model, inputs))


def _forward(model: BertForQuestionAnswering, inputs: Inputs) -> None:
    model(**inputs)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"weight_granularity": "tensor"},
        {"weight_granularity": "group", "weight_group": 8},
        {"weight_quantizer": "lat_exact"},
        EMBEDDINGS,
        EMBEDDINGS | {"embedding_granularity": "tensor"},
    ],
)
def test_a_split_model_is_the_ternary_model(
    bert: BertForQuestionAnswering, inputs: Inputs, more: dict[str, Any]
) -> None:
    bert.double()
    _ternary(bert, inputs, **more)
    expected = bert(**inputs).start_logits
    assert len(split_ternary(bert)) == (15 if more.keys() & EMBEDDINGS.keys() else 12)
    # Inputs are rounded in float32, so that a last bit may differ before the next rounding.
    assert torch.allclose(bert(**inputs).start_logits, expected, rtol=0, atol=1e-6)


def test_a_split_linear_is_its_ternary_self_to_twelve_digits() -> None:
    torch.manual_seed(0)
    layer = QuantLinear.from_float(nn.Linear(64, 32).double(), QuantizeConfig(**TERNARY))
    x = _noise(5, 64)
    calibrate(layer, lambda: _call(layer, x))
    holder = nn.Sequential(layer)
    expected = holder(x)
    assert split_ternary(holder) == ["0"]
    assert isinstance(holder[0], Split)
    assert torch.allclose(holder(x), expected, rtol=0, atol=1e-12)
    assert torch.equal(holder[0].first.bias, holder[0].second.bias)  # type: ignore[arg-type]


def _call(layer: nn.Module, x: Tensor) -> None:
    layer(x)


def test_halves_are_binary_layers_that_train_apart(
    bert: BertForQuestionAnswering, inputs: Inputs
) -> None:
    _ternary(bert, inputs, **EMBEDDINGS)
    before = sum(p.numel() for p in bert.parameters())
    split_ternary(bert)
    halves = [m for m in bert.modules() if isinstance(m, (QuantLinear, QuantEmbedding))]
    assert {half.weight_quantizer.spec.method for half in halves} == {"bwn"}
    assert sum(p.numel() for p in bert.parameters()) > 1.8 * before
    bert(**inputs).start_logits.square().sum().backward()
    split = bert.get_submodule("bert.encoder.layer.1.output.dense")
    assert isinstance(split, Split)
    for half in (split.first, split.second):
        assert isinstance(half, QuantLinear)
        assert half.weight.grad is not None
        assert half.weight.grad.abs().sum() > 0
    assert split.first.input_quantizer is not split.second.input_quantizer


def test_a_split_model_becomes_integers_of_one_bit(
    bert: BertForQuestionAnswering, inputs: Inputs
) -> None:
    _ternary(bert, inputs)
    split_ternary(bert)
    integer = to_integer(bert)
    for module in integer.modules():
        if isinstance(module, IntegerLinear):
            module._integer = False
            assert module.bits == 1
            assert set(module.weight.unique().tolist()) == {-1, 1}
    assert torch.equal(integer(**inputs).start_logits, bert(**inputs).start_logits)


def test_a_model_without_ternary_layers_is_refused(bert: BertForQuestionAnswering) -> None:
    quantize(bert, QuantizeConfig())
    with pytest.raises(QualaError, match="without ternary layers"):
        split_ternary(bert)


def test_a_weight_that_cannot_be_split_is_named() -> None:
    linear = nn.Linear(92, 1, bias=False)
    nn.init.constant_(linear.weight, float("inf"))
    holder = nn.Sequential(QuantLinear.from_float(linear, QuantizeConfig(**TERNARY)))
    with pytest.raises(QualaError, match="`0` cannot be split"):
        split_ternary(holder)
