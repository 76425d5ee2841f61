"""The weights behind integers: saved, and back to the bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertForQuestionAnswering

from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.integer import to_integer
from quala.compress.quantize.latent import (
    LATENT_FILE,
    read_latent,
    restore_float,
    restore_latent,
    save_latent,
)
from quala.compress.quantize.split import split_ternary
from quala.compress.quantize.transform import calibrate, is_fake_quantized, quantize
from quala.errors import QualaError

Inputs = dict[str, Tensor]
TERNARY: dict[str, Any] = {
    "weight_quantizer": "twn", "weight_bits": 2, "embedding_quantizer": "twn", "embedding_bits": 2,
}  # fmt: skip
LAT = {**TERNARY, "weight_quantizer": "lat"}
LSQ = {
    "weight_quantizer": "lsq", "weight_bits": 4, "embedding_quantizer": "lsq",
    "activation_range": "lsq", "skip": ("qa_outputs", "position_embeddings"),
}  # fmt: skip


def _trained(
    model: BertForQuestionAnswering, inputs: Inputs, options: dict[str, Any], *, split: bool
) -> BertForQuestionAnswering:
    """Bring a model into training form and let one step move all that learns."""
    quantize(model, QuantizeConfig(**options))
    calibrate(model, lambda: _forward(model, inputs))
    if split:
        split_ternary(model)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**inputs).start_logits.square().sum().backward()
    optimizer.step()
    return model.eval()


def _forward(model: BertForQuestionAnswering, inputs: Inputs) -> None:
    model(**inputs)


FORMS = [(TERNARY, False), (LAT, False), (LSQ, False), (TERNARY, True)]


@pytest.mark.parametrize(("options", "split"), FORMS)
def test_a_model_in_training_comes_back_to_the_bit(
    bert: BertForQuestionAnswering,
    inputs: Inputs,
    tmp_path: Path,
    options: dict[str, Any],
    split: bool,
) -> None:
    other = copy.deepcopy(bert)
    trained = _trained(bert, inputs, options, split=split)
    save_latent(trained, tmp_path)
    latent = read_latent(tmp_path)
    assert latent.config == QuantizeConfig(**options)
    restore_latent(other, latent)
    found, wanted = other.state_dict(), trained.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert torch.equal(other(**inputs).start_logits, trained(**inputs).start_logits)


@pytest.mark.parametrize(("options", "split"), FORMS)
def test_a_restored_model_trains_as_the_saved_one(
    bert: BertForQuestionAnswering,
    inputs: Inputs,
    tmp_path: Path,
    options: dict[str, Any],
    split: bool,
) -> None:
    other = copy.deepcopy(bert)
    trained = _trained(bert, inputs, options, split=split)
    save_latent(trained, tmp_path)
    restore_latent(other, read_latent(tmp_path))
    gradients = []
    for model in (trained, other):
        model.zero_grad()
        torch.manual_seed(5)
        model.train()(**inputs).start_logits.square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][n], gradients[1][n]) for n in gradients[0])
    states = [model.state_dict() for model in (trained, other)]  # ranges go on being averaged
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("split", [False, True])
def test_a_float_model_gets_the_weights_before_rounding(
    bert: BertForQuestionAnswering, inputs: Inputs, tmp_path: Path, split: bool
) -> None:
    other = copy.deepcopy(bert)
    trained = _trained(bert, inputs, TERNARY, split=split)
    save_latent(trained, tmp_path)
    restore_float(other, read_latent(tmp_path))
    assert not is_fake_quantized(other)
    name = "bert.encoder.layer.1.output.dense"
    layer = trained.get_submodule(name)
    halves = [layer.first, layer.second] if split else [layer]
    for leaf in ("weight", "bias"):
        total = sum(getattr(half, leaf).detach() for half in halves)
        assert torch.equal(other.get_submodule(name).get_parameter(leaf), total)


def test_training_form_ends_with_integers(bert: BertForQuestionAnswering, inputs: Inputs) -> None:
    assert not is_fake_quantized(bert)
    trained = _trained(bert, inputs, TERNARY, split=False)
    assert is_fake_quantized(trained)
    assert not is_fake_quantized(to_integer(trained))


def test_a_float_model_has_no_latent_weights(
    bert: BertForQuestionAnswering, tmp_path: Path
) -> None:
    with pytest.raises(QualaError, match="not in training form"):
        save_latent(bert, tmp_path)


def test_a_folder_without_latent_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(QualaError, match=r"has no latent\.safetensors"):
        read_latent(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, damage: str) -> None:
    from safetensors.torch import save_file

    file = tmp_path / LATENT_FILE
    if damage == "cut":
        file.write_bytes(b"\x08")
    else:
        save_file({"a": torch.zeros(1)}, file, metadata={"format": "pt"})
    with pytest.raises(QualaError, match=r"cannot be read|must have format 1, got pt"):
        read_latent(tmp_path)


def test_a_model_of_other_sizes_is_refused(
    bert: BertForQuestionAnswering, inputs: Inputs, tmp_path: Path
) -> None:
    other = copy.deepcopy(bert)
    other.qa_outputs = torch.nn.Linear(16, 3)
    save_latent(_trained(bert, inputs, TERNARY, split=False), tmp_path)
    with pytest.raises(QualaError, match="do not fit the model"):
        restore_latent(other, read_latent(tmp_path))
