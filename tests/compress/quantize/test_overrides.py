"""Bits of single weights: how they are named, and what becomes of them until the file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toys import FAMILIES, BuildHf
from transformers import BertForQuestionAnswering

from quala.compress.quantize.config import QuantizeConfig, names_site, resolved
from quala.compress.quantize.files import load_integer, pack, save_integer, unpack
from quala.compress.quantize.integer import bits_of, integer_layers, precision_of, to_integer
from quala.compress.quantize.latent import read_latent, restore_latent, save_latent
from quala.compress.quantize.modules import QuantLinear
from quala.compress.quantize.sites import check_drops, site_names
from quala.compress.quantize.transform import calibrate, find_outliers, learned_steps, quantize
from quala.errors import QualaError
from quala.models.load import weights_file
from quala.workflow.identity import config_identity

Inputs = dict[str, torch.Tensor]
MIXED = {"layers.0.*": 4, "layers.0.value": 0, "ffn_in": 3, "layers.0.ffn_in": 2}
EXPECTED = {
    "attention.self.query": (4, 2), "attention.self.key": (4, 2), "attention.self.value": (0, 2),
    "attention.output.dense": (4, 2), "intermediate.dense": (2, 3), "output.dense": (4, 2),
}  # fmt: skip


def config(**changes: object) -> QuantizeConfig:
    return QuantizeConfig(weight_bits=2, **changes)  # type: ignore[arg-type]


def fake(model: BertForQuestionAnswering, inputs: Inputs, **changes: object) -> dict[str, int]:
    """Quantize and calibrate a model, and return the bits of its linear layers."""
    quantize(model, config(**changes))
    calibrate(model, lambda: model(**inputs))
    return widths(model)


def widths(model: torch.nn.Module) -> dict[str, int]:
    return {
        name.removeprefix("bert.encoder.layer."): module.weight_quantizer.spec.bits
        for name, module in model.named_modules()
        if isinstance(module, QuantLinear)
    }


def test_a_full_name_goes_before_patterns_whatever_their_order(
    bert: BertForQuestionAnswering, inputs: Inputs
) -> None:
    overrides = {**MIXED, "layers.1.ffn_in": 3}
    overrides["layers.0.ffn_in"] = overrides.pop("layers.0.ffn_in")
    del overrides["ffn_in"]
    expected = {f"{layer}.{name}": EXPECTED[name][layer] for layer in (0, 1) for name in EXPECTED}
    assert fake(bert, inputs, overrides=overrides) == expected


@pytest.mark.parametrize("pattern", ["layers.1.ffn_out", "layer.1.output.dense", "*.1.output.*"])
def test_a_name_of_the_module_is_as_good(
    bert: BertForQuestionAnswering, inputs: Inputs, pattern: str
) -> None:
    found = fake(bert, inputs, overrides={pattern: 5})
    assert {name for name, bits in found.items() if bits == 5} == {"1.output.dense"}


@pytest.mark.parametrize("family", FAMILIES)
def test_all_families_have_the_same_names(build_hf: BuildHf, family: str) -> None:
    hf = build_hf(family)
    quantize(hf, config(overrides={"ffn_in": 3, "layers.0.query": 4}))
    named = site_names(hf, [n for n, m in hf.named_modules() if isinstance(m, QuantLinear)])
    for module, names in named.items():
        bits = 4 if "layers.0.query" in names else 3 if names[0].endswith(".ffn_in") else 2
        assert hf.get_submodule(module).weight_quantizer.spec.bits == bits  # type: ignore[union-attr]
    shared = [names for names in named.values() if len(names) > 2]
    assert bool(shared) is (family == "albert")  # one weight for all layers has all their names


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"layers.2.ffn_in": 4}, r"`layers.2.ffn_in`.*names no linear layer.*layers.0.query"),
        ({"word_embeddings": 4}, "names no linear layer"),
        ({"ffn_*": 4, "*_in": 3}, r"`layers.0.ffn_in` other bits by `ffn_\*` than by `\*_in`"),
    ],
)
def test_a_name_that_decides_nothing_is_refused(
    bert: BertForQuestionAnswering, overrides: dict[str, int], words: str
) -> None:
    with pytest.raises(QualaError, match=words):
        quantize(bert, config(overrides=overrides))


def test_a_part_of_a_word_is_no_name() -> None:
    assert names_site(["layers.0.attention_out"], "attention_out")
    assert not names_site(["layers.0.attention_out"], "out")
    sites = {"m": ["layers.0.key", "m"]}
    assert resolved({"key": 4, "layers.*.key": 4}, sites) == {"m": 4}  # they agree


@pytest.mark.parametrize(
    ("overrides", "more", "words"),
    [
        ({"*": 1}, {}, "0 or 2 to 8 bits, got 1"),
        ({"*": 9}, {}, "at most 8"),
        ({"*": 0}, {"weight_quantizer": "bwn", "weight_bits": 1}, "minmax or lsq, got bwn"),
        ({"*": 2}, {"weight_quantizer": "twn"}, "minmax or lsq, got twn"),
    ],
)
def test_widths_that_a_grid_has_not_are_refused(
    overrides: dict[str, int], more: dict[str, object], words: str
) -> None:
    with pytest.raises(QualaError, match=words):
        QuantizeConfig(**{"weight_bits": 2, "overrides": overrides, **more})  # type: ignore[arg-type]


def test_only_a_linear_weight_can_be_pruned() -> None:
    with pytest.raises(QualaError, match="embedding_bits"):
        QuantizeConfig(embedding_bits=0)
    with pytest.raises(QualaError, match="weight_bits"):
        QuantizeConfig(weight_bits=0)


def test_without_overrides_the_identity_is_that_of_older_versions() -> None:
    assert "overrides" not in config_identity(QuantizeConfig())
    assert config_identity(config(overrides={"key": 3}))["overrides"] == {"key": 3}


GRIDS = {
    "per tensor": {"weight_quantizer": "lsq", "weight_granularity": "tensor"},
    "groups": {"weight_granularity": "group", "weight_group": 8},
    "rows with outliers": {"outliers": 2},
}
OVERRIDES = {"layers.0.value": 0, "ffn_out": 3, "layers.1.key": 4}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_the_file_holds_each_weight_at_its_bits(
    bert: BertForQuestionAnswering, inputs: Inputs, tmp_path: Path, grid: dict[str, object]
) -> None:
    found = fake(bert, inputs, overrides=OVERRIDES, **grid)
    save_latent(bert, tmp_path / "latent")
    wanted = bert(**inputs).start_logits
    integers = to_integer(bert)
    assert bits_of(integers) == "0/2/3/4-8-8"
    assert precision_of(integers) == "w0-2-3-4e8a8"
    save_integer(integers, tmp_path)  # type: ignore[arg-type]
    opened = load_integer(tmp_path)
    torch.testing.assert_close(opened(**inputs).start_logits, wanted, atol=1e-4, rtol=1e-4)
    layers = {
        name.removeprefix("bert.encoder.layer."): layer
        for name, layer in integer_layers(opened).items()
        if "encoder" in name
    }
    assert {name: layer.bits for name, layer in layers.items()} == found
    assert not layers["0.attention.self.value"].float_weight().any()
    stored = load_file(weights_file(tmp_path))
    for name, layer in layers.items():
        codes = stored[f"bert.encoder.layer.{name}.weight"]
        assert codes.numel() == -(-layer.weight.numel() * layer.bits // 8)


def test_a_training_can_go_on_at_the_same_bits(
    bert: BertForQuestionAnswering, inputs: Inputs, tmp_path: Path
) -> None:
    plain = BertForQuestionAnswering(bert.config).eval()
    found = fake(bert, inputs, overrides=OVERRIDES, weight_quantizer="lsq")
    save_latent(bert, tmp_path)
    restore_latent(plain, read_latent(tmp_path))
    assert widths(plain) == found
    assert torch.equal(plain(**inputs).start_logits, bert(**inputs).start_logits)


def test_a_pruned_weight_learns_nothing(bert: BertForQuestionAnswering, inputs: Inputs) -> None:
    fake(bert, inputs, overrides={"layers.0.value": 0}, weight_quantizer="lsq")
    bert(**inputs).start_logits.sum().backward()
    value = bert.bert.encoder.layer[0].attention.self.value
    assert value.weight.grad is None
    assert value.bias.grad is not None
    assert len(learned_steps(bert)) == 11
    assert {step.top for step in learned_steps(bert)} == {1}


def test_a_pruned_weight_keeps_no_outliers(bert: BertForQuestionAnswering, inputs: Inputs) -> None:
    quantize(bert, config(overrides={"layers.0.value": 0}, outliers=2))
    with torch.no_grad():
        bert.bert.embeddings.LayerNorm.weight[:2] *= 50
        find_outliers(bert, lambda: bert(**inputs))
    attention = bert.bert.encoder.layer[0].attention.self
    assert len(attention.query.outliers) > 0
    assert len(attention.value.outliers) == 0


@pytest.mark.parametrize("name", ["query", "layers.1.key", "encoder.layer.0.attention.self.key"])
@pytest.mark.parametrize("integer", [False, True])
def test_a_model_without_queries_or_keys_drops_no_tokens(
    bert: BertForQuestionAnswering, inputs: Inputs, name: str, integer: bool
) -> None:
    fake(bert, inputs, overrides={name: 0})
    with pytest.raises(QualaError, match=r"layers\.\d\.(query|key)` has 0 bits"):
        check_drops(to_integer(bert) if integer else bert)


def test_other_pruned_weights_leave_the_ranking(
    bert: BertForQuestionAnswering, inputs: Inputs
) -> None:
    fake(bert, inputs, overrides={"value": 0, "ffn_*": 0})
    check_drops(bert)
    check_drops(to_integer(bert))


def test_no_bits_are_packed_into_no_bytes() -> None:
    packed = pack(torch.zeros(3, 5, dtype=torch.int8), 0)
    assert packed.numel() == 0
    assert torch.equal(unpack(packed, 0, (3, 5)), torch.zeros(3, 5, dtype=torch.int8))
    with pytest.raises(QualaError, match="got the code 1"):
        pack(torch.tensor([0, 1], dtype=torch.int8), 0)


def test_a_config_is_made_anew_with_its_overrides() -> None:
    made = config(overrides={"key": 3})
    assert dataclasses.replace(made, overrides=dict(made.overrides)) == made
    assert made.weights_at(None).bits == 2
    assert made.weights_at(5).bits == 5
