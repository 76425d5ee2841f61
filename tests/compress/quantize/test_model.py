from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from transformers import BertForQuestionAnswering

from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.modules import ActivationQuantizer, QuantEmbedding, QuantLinear
from quala.compress.quantize.transform import (
    calibrate,
    freeze,
    learned_steps,
    quantize,
    set_curvature,
    set_mode,
)
from quala.errors import QualaError

Inputs = dict[str, Tensor]


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


def test_freeze_reaches_every_quantizer(bert: BertForQuestionAnswering) -> None:
    quantize(bert, QuantizeConfig())
    freeze(bert)
    assert all(m.frozen for m in bert.modules() if isinstance(m, ActivationQuantizer))


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
