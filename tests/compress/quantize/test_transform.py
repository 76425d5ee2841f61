"""Models that are fake-quantized in place: layers, ranges, outliers, curvature."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import BertForQuestionAnswering

from quala.compress.quantize import transform
from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.files import load_integer, save_integer
from quala.compress.quantize.integer import (
    IntegerLinear,
    bits_of,
    has_integer_kernel,
    integer_layers,
    precision_of,
    to_integer,
    weight_counts,
)
from quala.compress.quantize.latent import read_latent, restore_float, restore_latent, save_latent
from quala.compress.quantize.modules import Mode, QuantEmbedding, QuantLinear
from quala.compress.quantize.transform import (
    calibrate,
    learned_steps,
    quantize,
    set_curvature,
    set_mode,
)
from quala.errors import QualaError
from quala.models.families import BERT

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
    layer = integer_layers(integer)[name]
    assert isinstance(layer, IntegerLinear)
    weight = layer.float_weight()
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
        ({"outliers": -1}, "at least 0"),
        ({"outliers": 4, "weight_quantizer": "lsq"}, "`weight_quantizer=minmax`, got lsq"),
    ],
)
def test_bad_values_are_one_sentence(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(QualaError, match=sentence):
        QuantizeConfig(**values)  # type: ignore[arg-type]


def _calibrated(model: BertForQuestionAnswering, inputs: Inputs, config: QuantizeConfig) -> None:
    quantize(model, config)
    calibrate(model, lambda: _run(model, inputs))


def _run(model: BertForQuestionAnswering, inputs: Inputs) -> None:
    model(**inputs)


def test_quantize_names_every_encoder_layer_and_leaves_the_head(
    bert: BertForQuestionAnswering,
) -> None:
    names = quantize(bert, QuantizeConfig())
    assert len(names) == 3 + 2 * 6
    assert isinstance(bert.get_submodule("bert.encoder.layer.0.attention.self.query"), QuantLinear)
    assert isinstance(bert.bert.embeddings.word_embeddings, QuantEmbedding)
    assert type(bert.qa_outputs) is torch.nn.Linear


def test_skip_patterns_match_a_dotted_part(bert: BertForQuestionAnswering) -> None:
    names = quantize(bert, QuantizeConfig(skip=("qa_*", "attention", "*embeddings")))
    assert len(names) == 4
    assert all("attention" not in name for name in names)


def test_heads_that_the_family_names_stay_float(
    bert: BertForQuestionAnswering, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = replace(BERT, head_parts=("ne_outputs",))
    monkeypatch.setattr(transform, "family_of", lambda hf: named)
    bert.ne_outputs = torch.nn.Linear(16, 3)
    assert not any("outputs" in name for name in quantize(bert, QuantizeConfig()))


def test_embeddings_may_stay_float(bert: BertForQuestionAnswering) -> None:
    assert len(quantize(bert, QuantizeConfig(quantize_embeddings=False))) == 12


def test_a_model_is_quantized_once(bert: BertForQuestionAnswering) -> None:
    quantize(bert, QuantizeConfig())
    with pytest.raises(QualaError, match="already"):
        quantize(bert, QuantizeConfig())


def test_nothing_to_quantize_is_refused(bert: BertForQuestionAnswering) -> None:
    with pytest.raises(QualaError, match="Nothing"):
        quantize(bert, QuantizeConfig(skip=("*",)))


def test_mode_off_is_the_float_model(bert: BertForQuestionAnswering, inputs: Inputs) -> None:
    expected = bert(**inputs).start_logits
    quantize(bert, QuantizeConfig())
    assert torch.equal(bert(**inputs).start_logits, expected)


def test_the_parameters_are_the_same_objects(bert: BertForQuestionAnswering) -> None:
    before = {id(p) for p in bert.parameters()}
    quantize(bert, QuantizeConfig())
    assert {id(p) for p in bert.parameters()} == before


def test_mode_fake_is_close_to_float_but_not_equal(
    bert: BertForQuestionAnswering, inputs: Inputs
) -> None:
    expected = bert(**inputs).start_logits
    _calibrated(bert, inputs, QuantizeConfig())
    rounded = bert(**inputs).start_logits
    assert not torch.equal(rounded, expected)
    assert torch.allclose(rounded, expected, atol=0.02)


def test_mode_fake_needs_a_range(bert: BertForQuestionAnswering) -> None:
    quantize(bert, QuantizeConfig())
    with pytest.raises(QualaError, match="calibrate"):
        set_mode(bert, "fake")


def test_an_unknown_mode_is_refused(bert: BertForQuestionAnswering) -> None:
    with pytest.raises(QualaError, match="fake"):
        set_mode(bert, "fakes")  # type: ignore[arg-type]


def test_calibration_must_reach_every_layer(bert: BertForQuestionAnswering) -> None:
    quantize(bert, QuantizeConfig())
    with pytest.raises(QualaError, match="no range"):
        calibrate(bert, lambda: None)


def test_calibration_uses_the_given_data_only(
    bert: BertForQuestionAnswering, inputs: Inputs
) -> None:
    quantize(bert, QuantizeConfig(activation_range="minmax"))
    other = copy.deepcopy(bert)
    far = {**inputs, "input_ids": (inputs["input_ids"] + 17) % 50}
    calibrate(bert, lambda: _run(bert, inputs))
    calibrate(other, lambda: _run(other, far))
    calibrate(other, lambda: _run(other, inputs))
    other(**far)
    states = (bert.state_dict(), other.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_ranges_survive_a_state_dict(bert: BertForQuestionAnswering, inputs: Inputs) -> None:
    fresh = copy.deepcopy(bert)
    _calibrated(bert, inputs, QuantizeConfig())
    quantize(fresh, QuantizeConfig())
    fresh.load_state_dict(bert.state_dict())
    set_mode(fresh, "fake")
    assert torch.equal(fresh(**inputs).start_logits, bert(**inputs).start_logits)


def test_training_reaches_weights_and_learned_steps(
    bert: BertForQuestionAnswering, inputs: Inputs
) -> None:
    _calibrated(bert, inputs, QuantizeConfig(activation_range="lsq"))
    bert(**inputs).start_logits.square().sum().backward()
    steps = [found.step for found in learned_steps(bert)]
    assert len(steps) == 12
    assert all(step.grad is not None and step.grad.isfinite() for step in steps)
    word = bert.bert.embeddings.word_embeddings.weight.grad
    assert word is not None
    assert word.abs().sum() > 0


def test_only_learned_steps_are_parameters(bert: BertForQuestionAnswering) -> None:
    quantize(bert, QuantizeConfig(activation_range="ema"))
    assert learned_steps(bert) == []


def test_learned_steps_of_weights_and_activations_are_told_apart(
    bert: BertForQuestionAnswering, inputs: Inputs
) -> None:
    config = QuantizeConfig(
        weight_quantizer="lsq",
        weight_bits=2,
        embedding_quantizer="lsq",
        embedding_bits=2,
        activation_range="lsq",
    )
    _calibrated(bert, inputs, config)
    bert(**inputs).start_logits.square().sum().backward()
    found = learned_steps(bert)
    assert [one.activation for one in found].count(True) == 12
    assert [one.activation for one in found].count(False) == 15
    assert {one.top for one in found if not one.activation} == {1}
    assert all(one.step.grad is not None and one.step.grad.isfinite().all() for one in found)


def test_adams_second_moments_become_the_curvature(
    bert: BertForQuestionAnswering, inputs: Inputs
) -> None:
    config = QuantizeConfig(weight_quantizer="lat", weight_bits=2)
    _calibrated(bert, inputs, config)
    optimizer = torch.optim.Adam(bert.parameters(), lr=0.0)
    assert set_curvature(bert, optimizer) == 0
    bert(**inputs).start_logits.square().sum().backward()
    before = bert(**inputs).start_logits
    optimizer.step()
    assert set_curvature(bert, optimizer) == 12
    layer = bert.get_submodule("bert.encoder.layer.1.output.dense")
    assert isinstance(layer, QuantLinear)
    assert layer.weight.grad is not None
    expected = (0.001 * layer.weight.grad.square()).sqrt() + 1e-8  # beta2 = 0.999, first step
    assert torch.allclose(layer.weight_quantizer.curvature, expected, rtol=1e-4)
    assert not torch.equal(bert(**inputs).start_logits, before)


def test_mode_off_ignores_the_weight_quantizer(
    bert: BertForQuestionAnswering, inputs: Inputs
) -> None:
    expected = bert(**inputs).start_logits
    quantize(bert, QuantizeConfig(weight_quantizer="bwn", weight_bits=1))
    assert torch.equal(bert(**inputs).start_logits, expected)
