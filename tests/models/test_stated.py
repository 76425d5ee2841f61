"""What a model's own card states reaches the card of its export, and nothing else does."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from quala.checkpoint import load_any_model
from quala.data.spec import DataSpec
from quala.data.task import Span
from quala.errors import QualaError
from quala.models.load import load_model, load_tokenizer, save_model
from quala.models.stated import Stated, read_stated, stated_of
from quala.stages import finetune
from quala.workflow import StageContext

CARD = """---
license: mit
language: [en, de, English, 7]
datasets: owner/data
base_model: [owner/base, owner/other]
---
# A model
"""
STATED = Stated(
    license="mit", languages=["en", "de"], datasets=["owner/data"], base_model="owner/base"
)


@pytest.fixture
def licensed(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "licensed"))
    (folder / "README.md").write_text(CARD)
    return folder


def test_it_is_saved_and_loaded_with_the_model(licensed: Path, tmp_path: Path) -> None:
    model = load_any_model(licensed)
    assert stated_of(model.hf.config) == STATED
    save_model(model, load_tokenizer(licensed), tmp_path / "saved", metadata={})
    assert stated_of(load_any_model(tmp_path / "saved").hf.config) == STATED


def test_a_model_whose_card_states_nothing_carries_nothing(tiny_checkpoint: Path) -> None:
    assert not hasattr(load_any_model(tiny_checkpoint).hf.config, "quala_stated")


def test_a_start_model_gives_its_license_to_no_other(licensed: Path) -> None:
    model = load_model(licensed, task=Span(), head="or_new")
    assert stated_of(model.hf.config) == Stated()


def test_what_is_fine_tuned_has_no_license_of_its_start(
    licensed: Path, spec: DataSpec, configure: Any, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    save_model(load_any_model(licensed), load_tokenizer(licensed), saved, metadata={})
    assert json.loads((saved / "config.json").read_text())["quala_stated"]["license"] == "mit"
    context = StageContext.alone("finetune", tmp_path / "finetune")
    few = replace(spec, max_train=4)
    finetune.run(configure("finetune", epochs=1), context, {"model": saved, "data": few})
    found = stated_of(AutoConfig.from_pretrained(context.output))
    assert found == Stated(base_model="owner/base")


@pytest.mark.parametrize(
    ("front", "license"),
    [
        ("license: other\nlicense_name: ours", "ours"),
        ("license: unknown", ""),
        ("license: [mit, apache-2.0]", "mit and apache-2.0"),
        ("license: {a: b}", ""),
        ("title: x", ""),
    ],
)
def test_the_license_is_the_one_that_is_named(front: str, license: str, tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(f"---\n{front}\n---\n")
    assert read_stated(tmp_path, card).license == license


@pytest.mark.parametrize("text", ["---\na: [\n---\n", "---\n- a\n---\n", "x" * (2**20 + 1)])
def test_a_damaged_card_states_nothing_and_is_named(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card = tmp_path / "README.md"
    card.write_text(text)
    assert read_stated(tmp_path, card) == Stated()
    assert "README.md` is not read, so no license is taken" in caplog.text


def test_a_model_of_the_hub_is_a_base_model(tmp_path: Path) -> None:
    assert read_stated("owner/name@v1", None).base_model == "owner/name"
    cached = tmp_path / "models--owner--a--name" / "snapshots" / "f00"
    assert read_stated(cached, None).base_model == "owner/a--name"


def test_a_damaged_config_is_refused(licensed: Path) -> None:
    model = load_any_model(licensed)
    model.hf.config.quala_stated = {"languages": "en"}
    with pytest.raises(QualaError, match=r"`quala_stated.languages` must be a list, got \"en\""):
        stated_of(model.hf.config)
