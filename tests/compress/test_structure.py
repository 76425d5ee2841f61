"""Sizes of compressed encoders: measured, recorded, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import RESIZED, TASKS, BuildHf, MakeBatch, removable
from transformers import AutoTokenizer, PreTrainedModel

from quala.architecture import KEY, LayerSizes, Structure
from quala.compress.prune.structured import keep_units
from quala.compress.shrink import factorize
from quala.compress.structure import (
    is_structured,
    keep_layers,
    load_structured,
    structure_of,
)
from quala.cost import architecture_of, parameters
from quala.errors import QualaError
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import save_model

HEADS = [[0, 2], [3], [0, 1, 2, 3]]
NEURONS = [range(16), range(2), range(30)]


def compressed(hf: PreTrainedModel) -> PreTrainedModel:
    heads = removable(hf.config.model_type, HEADS)
    small = keep_units(hf, heads=heads, neurons=NEURONS)
    return factorize(small, 1.5)


def edited(folder: Path, change: Any) -> None:
    file = folder / "config.json"
    facts = json.loads(file.read_text())
    change(facts[KEY])
    file.write_text(json.dumps(facts))


@pytest.mark.parametrize("kind", ["question-answering", "classification", "regression"])
@pytest.mark.parametrize("family", RESIZED)
def test_a_saved_model_comes_back_exactly(
    family: str, kind: Any, build_hf: BuildHf, make_batch: MakeBatch, tmp_path: Path
) -> None:
    small = compressed(build_hf(family, kind).float())
    small.save_pretrained(tmp_path)
    before = torch.get_rng_state()
    loaded = load_structured(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    state = small.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert not loaded.training
    batch = make_batch([9, 20], family=family)
    one, other = (LengthAdaptiveModel(hf, task=TASKS[kind])(batch) for hf in (small, loaded))
    assert torch.equal(one, other)


def test_the_folder_of_save_model_records_the_structure(
    build_hf: BuildHf, tmp_path: Path, tiny_tokenizer_folder: Path
) -> None:
    model = LengthAdaptiveModel(compressed(build_hf().float()))
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    save_model(model, tokenizer, tmp_path, metadata={})
    assert is_structured(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    arch = architecture_of(config)
    assert arch == model.arch
    assert parameters(arch) == sum(weight.numel() for weight in model.hf.parameters())


def test_layers_of_a_compressed_model_are_kept_with_their_sizes(
    build_hf: BuildHf, make_batch: MakeBatch, tmp_path: Path
) -> None:
    small = keep_layers(compressed(build_hf().float()), [0, 2])
    sizes = [(layer.heads, layer.intermediate) for layer in structure_of(small).layers]
    assert sizes == [(2, 16), (4, 30)]
    small.save_pretrained(tmp_path)
    batch = make_batch([9])
    one, other = (LengthAdaptiveModel(hf)(batch) for hf in (small, load_structured(tmp_path)))
    assert torch.equal(one, other)


def test_a_compressed_model_records_what_it_is(build_hf: BuildHf) -> None:
    small = compressed(build_hf())
    recorded = Structure.from_json(json.loads(json.dumps(getattr(small.config, KEY))))
    assert recorded == structure_of(small)
    assert recorded.layers[1] == LayerSizes(1, 2, (2, 2, 2, 2, 1, 1))
    assert recorded.embedding_rank == 8


def test_an_ordinary_folder_is_not_structured(build_hf: BuildHf, tmp_path: Path) -> None:
    build_hf().save_pretrained(tmp_path)
    assert not is_structured(tmp_path)
    assert not is_structured(tmp_path / "absent")
    with pytest.raises(QualaError, match="`load_model`"):
        load_structured(tmp_path)


def test_weights_of_other_sizes_are_refused(build_hf: BuildHf, tmp_path: Path) -> None:
    compressed(build_hf().float()).save_pretrained(tmp_path)
    edited(tmp_path, lambda facts: facts["layers"][0].update(heads=3))
    with pytest.raises(QualaError, match="do not fit"):
        load_structured(tmp_path)


def test_a_record_of_another_depth_is_refused(build_hf: BuildHf, tmp_path: Path) -> None:
    compressed(build_hf().float()).save_pretrained(tmp_path)
    edited(tmp_path, lambda facts: facts["layers"].pop())
    with pytest.raises(QualaError, match=r"2 layers, the model 3|needs 3 layers, got 2"):
        load_structured(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts.pop("embedding_rank"),
        lambda facts: facts["layers"][0].pop("heads"),
        lambda facts: facts["layers"][0].update(ranks=3),
    ],
)
def test_a_damaged_record_is_refused(change: Any, build_hf: BuildHf, tmp_path: Path) -> None:
    compressed(build_hf().float()).save_pretrained(tmp_path)
    edited(tmp_path, change)
    with pytest.raises(QualaError, match="damaged"):
        load_structured(tmp_path)


def test_missing_weights_are_refused(build_hf: BuildHf, tmp_path: Path) -> None:
    compressed(build_hf().float()).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(QualaError, match="do not fit"):
        load_structured(tmp_path)
