"""Integer layers against the fake-quantized layers that they are made of."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import BertForQuestionAnswering

from quala.compress.quantize.config import QuantizeConfig, RangeKind
from quala.compress.quantize.integer import (
    IntegerEmbedding,
    IntegerLinear,
    has_integer_kernel,
    to_integer,
)
from quala.compress.quantize.modules import QuantEmbedding, QuantLinear
from quala.compress.quantize.transform import calibrate, quantize, set_mode
from quala.errors import QualaError

Inputs = dict[str, Tensor]
KERNELS = [
    False,
    pytest.param(True, marks=pytest.mark.skipif(not has_integer_kernel(), reason="no VNNI")),
]


def _layer(config: QuantizeConfig, *, bias: bool = True) -> tuple[QuantLinear, Tensor]:
    torch.manual_seed(0)
    layer = QuantLinear.from_float(nn.Linear(24, 40, bias=bias), config)
    x = torch.randn(3, 7, 24) + 0.3
    calibrate(layer, lambda: _call(layer, x))
    return layer.eval(), x


def _call(layer: nn.Module, x: Tensor) -> None:
    layer(x)


def _integer(layer: QuantLinear, *, kernel: bool) -> IntegerLinear:
    made = IntegerLinear.from_fake(layer)
    made._integer = kernel
    return made


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", ["minmax", "percentile", "lsq"])
def test_a_layer_equals_its_fake_quantized_self(kernel: bool, bits: int, kind: RangeKind) -> None:
    config = QuantizeConfig(weight_bits=bits, activation_bits=bits, activation_range=kind)
    layer, x = _layer(config)
    assert torch.allclose(_integer(layer, kernel=kernel)(x), layer(x), atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_layer_needs_no_bias(kernel: bool) -> None:
    layer, x = _layer(QuantizeConfig(), bias=False)
    assert torch.allclose(_integer(layer, kernel=kernel)(x), layer(x), atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_values_outside_the_range_saturate(kernel: bool) -> None:
    layer, x = _layer(QuantizeConfig())
    assert torch.allclose(_integer(layer, kernel=kernel)(x * 5), layer(x * 5), atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_largest_sums_do_not_saturate(kernel: bool) -> None:
    layer = IntegerLinear(512, 2)
    layer._integer = kernel
    layer.weight.fill_(127)
    assert layer(torch.full((1, 512), 255.0)).tolist() == [[512 * 255 * 127.0] * 2]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_layer_takes_strided_inputs(kernel: bool) -> None:
    layer, x = _layer(QuantizeConfig())
    strided = x.transpose(0, 1)
    made = _integer(layer, kernel=kernel)
    assert torch.allclose(made(strided), made(strided.contiguous()), atol=1e-6)


def test_a_used_layer_can_be_copied_and_changed() -> None:
    layer, x = _layer(QuantizeConfig())
    made = IntegerLinear.from_fake(layer)
    made(x)
    twin = copy.deepcopy(made)
    state = twin.state_dict()
    state["bias"] = state["bias"] + 1
    twin.load_state_dict(state)
    assert torch.allclose(twin(x), made(x) + 1, atol=1e-6)


def test_weights_are_stored_as_int8() -> None:
    layer, _ = _layer(QuantizeConfig())
    made = IntegerLinear.from_fake(layer)
    assert made.weight.dtype == torch.int8
    assert made.weight.min() >= -127


def test_an_embedding_equals_its_fake_quantized_self() -> None:
    torch.manual_seed(0)
    layer = QuantEmbedding.from_float(nn.Embedding(20, 8, padding_idx=0), QuantizeConfig())
    layer.mode = "fake"
    ids = torch.tensor([[0, 3, 19], [7, 7, 1]])
    made = IntegerEmbedding.from_fake(layer)
    assert made.weight.dtype == torch.int8
    assert torch.equal(made(ids), layer(ids))


@pytest.fixture
def fake(bert: BertForQuestionAnswering, inputs: Inputs) -> BertForQuestionAnswering:
    quantize(bert, QuantizeConfig())
    calibrate(bert, lambda: _forward(bert, inputs))
    return bert


def _forward(model: BertForQuestionAnswering, inputs: Inputs) -> None:
    model(**inputs)


def test_a_model_equals_its_fake_quantized_self(
    fake: BertForQuestionAnswering, inputs: Inputs
) -> None:
    integer = to_integer(fake)
    expected, got = fake(**inputs), integer(**inputs)
    assert torch.allclose(got.start_logits, expected.start_logits, atol=1e-4)
    assert torch.equal(got.end_logits.argmax(1), expected.end_logits.argmax(1))


def test_the_portable_kernel_is_the_fake_quantized_model_to_the_bit(
    fake: BertForQuestionAnswering, inputs: Inputs
) -> None:
    integer = to_integer(fake)
    for module in integer.modules():
        if isinstance(module, IntegerLinear):
            module._integer = False
    assert torch.equal(integer(**inputs).start_logits, fake(**inputs).start_logits)


def test_a_copy_leaves_the_model_alone(fake: BertForQuestionAnswering) -> None:
    assert to_integer(fake) is not fake
    assert isinstance(fake.get_submodule("bert.encoder.layer.0.output.dense"), QuantLinear)


def test_in_place_changes_the_model(fake: BertForQuestionAnswering) -> None:
    assert to_integer(fake, inplace=True) is fake
    assert isinstance(fake.get_submodule("bert.encoder.layer.0.output.dense"), IntegerLinear)


def test_a_float_model_is_refused(bert: BertForQuestionAnswering) -> None:
    with pytest.raises(QualaError, match="quantize it first"):
        to_integer(bert)


def test_an_uncalibrated_model_is_refused(bert: BertForQuestionAnswering) -> None:
    quantize(bert, QuantizeConfig())
    set_mode(bert, "off")
    with pytest.raises(QualaError, match="calibrate"):
        to_integer(bert)
