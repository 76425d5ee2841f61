from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import BertForQuestionAnswering

from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.files import (
    bits_of,
    dequantized_state_dict,
    integer_layers,
    load_integer,
    precision_of,
    save_integer,
    weight_counts,
)
from quala.compress.quantize.integer import IntegerLinear, has_integer_kernel, to_integer
from quala.compress.quantize.latent import read_latent, restore_float, restore_latent, save_latent
from quala.compress.quantize.modules import Mode, QuantLinear
from quala.compress.quantize.transform import calibrate, quantize, set_mode
from quala.errors import QualaError

Inputs = dict[str, Tensor]
LARGE = [3, 17]
KERNELS = [
    False,
    pytest.param(True, marks=pytest.mark.skipif(not has_integer_kernel(), reason="no VNNI")),
]


def inputs_with(large: list[int], factor: float = 30.0) -> Tensor:
    x = torch.randn(3, 7, 24, generator=torch.Generator().manual_seed(1))
    x[..., large] *= factor
    return x


def calibrated(x: Tensor, outliers: int, **more: object) -> QuantLinear:
    torch.manual_seed(0)
    config = QuantizeConfig(activation_range="minmax", outliers=outliers, **more)  # type: ignore[arg-type]
    layer = QuantLinear.from_float(nn.Linear(24, 40), config)
    calibrate(layer, lambda: called(layer, x))
    return layer.eval()


def called(layer: nn.Module, x: Tensor) -> None:
    layer(x)


def error(layer: QuantLinear, x: Tensor) -> float:
    exact = nn.functional.linear(x, layer.weight, layer.bias)
    return float((layer(x) - exact).detach().square().mean().sqrt())


def test_the_largest_inputs_stay_float() -> None:
    assert calibrated(inputs_with(LARGE), 2).outliers.tolist() == LARGE


def test_where_no_input_stands_out_none_stays_float() -> None:
    assert len(calibrated(inputs_with([]), 2).outliers) == 0
    assert len(calibrated(inputs_with(LARGE), 24).outliers) == 0  # nothing would be left


def test_no_outlier_is_looked_for_unless_asked() -> None:
    assert len(calibrated(inputs_with(LARGE), 0).outliers) == 0


def test_the_product_is_that_of_the_integers_and_the_outliers_apart() -> None:
    x = inputs_with(LARGE)
    layer = calibrated(x, 2)
    step, zero = float(layer.input_quantizer.step), float(layer.input_quantizer.zero_point)
    rows = x.reshape(-1, 24).double().tolist()
    biases = layer.bias.detach().double().tolist()
    expected = []
    for row in rows:
        values = []
        for output in range(40):
            weights = layer.weight[output].double().tolist()
            scale = max(abs(w) for i, w in enumerate(weights) if i not in LARGE) / 127
            total = biases[output]
            for place, value in enumerate(row):
                if place in LARGE:
                    total += value * weights[place]
                else:
                    code = min(max(round(value / step + zero), 0), 255) - zero
                    total += code * step * round(weights[place] / scale) * scale
            values.append(total)
        expected.append(values)
    found = layer(x).detach().reshape(-1, 40)
    assert torch.allclose(found, torch.tensor(expected), atol=1e-4)


def test_the_grid_of_the_others_is_as_fine_as_without_outliers() -> None:
    x = inputs_with(LARGE)
    layer, plain = calibrated(x, 2), calibrated(x, 0)
    assert error(layer, x) < error(plain, x) / 5
    masked = x.clone()
    masked[..., LARGE] = 0
    assert torch.equal(layer.input_quantizer.step, calibrated(masked, 0).input_quantizer.step)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_integer_layer_equals_its_fake_quantized_self(kernel: bool) -> None:
    x = inputs_with(LARGE)
    layer = calibrated(x, 2)
    made = IntegerLinear.from_fake(layer)
    made._integer = kernel
    assert torch.allclose(made(x), layer(x), atol=1e-4)
    assert not made.weight[:, LARGE].any()
    assert torch.equal(made.float_weight()[:, LARGE], layer.weight[:, LARGE])


def test_weights_of_outliers_are_trained() -> None:
    x = inputs_with(LARGE)
    layer = calibrated(x, 2).train()
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    expected = x.sum(dim=(0, 1))[LARGE].expand(40, -1)
    assert torch.allclose(layer.weight.grad[:, LARGE], expected, rtol=1e-4)


def test_a_range_that_is_averaged_in_training_leaves_outliers_out() -> None:
    x = inputs_with(LARGE)
    config = QuantizeConfig(activation_range="ema", outliers=2)
    layer = QuantLinear.from_float(nn.Linear(24, 40), config)
    calibrate(layer, lambda: called(layer, x))
    layer.train()(x)
    assert float(layer.input_quantizer.high) < 5.0 < float(x[..., LARGE].max())


@pytest.mark.parametrize("mode", ["off", "observe"])
def test_without_rounding_the_layer_is_the_float_one(mode: Mode) -> None:
    x = inputs_with(LARGE)
    layer = calibrated(x, 2)
    set_mode(layer, mode)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


@pytest.fixture
def trained(bert: BertForQuestionAnswering, inputs: Inputs) -> BertForQuestionAnswering:
    """A toy model, one neuron of whose first feed-forward is far larger than the others."""
    with torch.no_grad():
        bert.bert.encoder.layer[0].intermediate.dense.weight[5] *= 300
    quantize(bert, QuantizeConfig(activation_range="minmax", outliers=1))
    calibrate(bert, lambda: run(bert, inputs))
    return bert.eval()


@pytest.fixture
def integer(trained: BertForQuestionAnswering) -> BertForQuestionAnswering:
    made = to_integer(trained)
    assert isinstance(made, BertForQuestionAnswering)
    return made


def run(model: BertForQuestionAnswering, inputs: Inputs) -> None:
    model(**inputs)


def apart(model: nn.Module) -> dict[str, list[int]]:
    return {
        name: layer.outliers.tolist()
        for name, layer in integer_layers(model).items()
        if isinstance(layer, IntegerLinear) and layer.outliers is not None
    }


def test_a_folder_keeps_outliers(
    integer: BertForQuestionAnswering, inputs: Inputs, tmp_path: Path
) -> None:
    assert apart(integer)["bert.encoder.layer.0.output.dense"] == [5]
    save_integer(integer, tmp_path)
    loaded = load_integer(tmp_path)
    assert apart(loaded) == apart(integer)
    saved, read = integer.state_dict(), loaded.state_dict()
    assert saved.keys() == read.keys()
    assert all(torch.equal(saved[name], read[name]) for name in saved)
    assert torch.equal(loaded(**inputs).start_logits, integer.eval()(**inputs).start_logits)


def test_a_training_goes_on_with_its_outliers(
    trained: BertForQuestionAnswering, inputs: Inputs, tmp_path: Path
) -> None:
    save_latent(trained, tmp_path)
    latent = read_latent(tmp_path)
    restored, plain = (BertForQuestionAnswering(trained.config).eval() for _ in range(2))
    restore_latent(restored, latent)
    assert torch.equal(restored(**inputs).start_logits, trained(**inputs).start_logits)
    restore_float(plain, latent)
    set_mode(trained, "off")
    assert torch.equal(plain(**inputs).start_logits, trained(**inputs).start_logits)


def test_a_state_from_before_there_were_outliers_has_none(
    trained: BertForQuestionAnswering,
) -> None:
    state = {name: one for name, one in trained.state_dict().items() if "outliers" not in name}
    trained.load_state_dict(state)
    layers = (one for one in trained.modules() if isinstance(one, QuantLinear))
    assert not any(len(one.outliers) for one in layers)


def test_the_float_twin_has_the_weights_of_outliers(
    integer: BertForQuestionAnswering,
) -> None:
    name = "bert.encoder.layer.0.output.dense"
    layer = integer.get_submodule(name)
    weight = dequantized_state_dict(integer)[f"{name}.weight"]
    assert torch.equal(weight[:, [5]], layer.outlier_weight)


def test_outliers_change_neither_the_bits_nor_the_parameters_of_a_model(
    integer: BertForQuestionAnswering,
) -> None:
    layer = integer.get_submodule("bert.encoder.layer.0.output.dense")
    assert isinstance(layer, IntegerLinear)
    assert (precision_of(integer), bits_of(integer)) == ("int8", "8-8-8")
    alone = nn.ModuleDict({"layer": layer})
    weights = layer.weight.numel() + len(layer.weight)  # and biases
    counted, nonzero = weight_counts(alone)
    assert counted == weights
    zeros = int((layer.weight == 0).sum()) - len(layer.weight)  # without the outlier's column
    assert nonzero == counted - zeros - int((layer.bias == 0).sum())


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"outliers": -1}, "0 or more"),
        ({"outliers": 4, "weight_quantizer": "lsq"}, "`weight_quantizer=minmax`, got lsq"),
    ],
)
def test_bad_values_are_one_sentence(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(QualaError, match=sentence):
        QuantizeConfig(**values)  # type: ignore[arg-type]
