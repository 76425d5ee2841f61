"""What sentence-transformers' files say of a checkpoint, and what quala writes of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import Build, BuildHf, build, build_hf
from transformers import AutoTokenizer, BertModel

from quala.checkpoint import load_any_model
from quala.data.task_embed import Embedding
from quala.data.task_tags import Tags
from quala.errors import QualaError
from quala.models.load import save_model
from quala.models.sentence_encoder import tokens_read

__all__ = ["build", "build_hf"]


def steps(folder: Path, pooling: dict[str, Any], *more: str) -> Path:
    """Write modules.json with a pooling and more steps."""
    kinds = {"Transformer": "", "Pooling": "1_Pooling", **dict.fromkeys(more, "2_More")}
    rows = [{"type": f"sentence_transformers.models.{name}", "path": path}
            for name, path in kinds.items()]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(rows))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.fixture
def encoder(tmp_path: Path, build_hf: BuildHf) -> Path:
    build_hf("bert", "embedding").float().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("pooling", "more", "found"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, ["Normalize"],
         Embedding(pooling="mean")),
        ({"pooling_mode_cls_token": True}, [], Embedding(pooling="cls", normalize=False)),
        ({"pooling_mode": "cls"}, ["Normalize"], Embedding(pooling="cls")),
    ],
)  # fmt: skip
def test_a_sentence_encoder_says_how_it_pools(
    pooling: dict[str, Any], more: list[str], found: Embedding, encoder: Path
) -> None:
    model = load_any_model(steps(encoder, pooling, *more))
    assert model.task == found
    assert model.hf.pooler is None
    assert load_any_model(encoder, task=Embedding(pooling="mean")).task.pooling == "mean"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("pooling", "more", "sentence"),
    [
        ({"pooling_mode_max_tokens": True}, [], "mean or cls, got pooling_mode_max_tokens"),
        ({"pooling_mode": ["mean", "cls"]}, [], "must be mean or cls"),
        ({"pooling_mode": "mean"}, ["Dense"], "has the step `Dense`"),
    ],
)
def test_other_steps_are_refused(
    pooling: dict[str, Any], more: list[str], sentence: str, encoder: Path
) -> None:
    with pytest.raises(QualaError, match=sentence):
        load_any_model(steps(encoder, pooling, *more))


@pytest.mark.parametrize("text", ["{", "[1]", '[{"type": 3, "path": ""}]'])
def test_damaged_steps_are_one_sentence(text: str, encoder: Path) -> None:
    (encoder / "modules.json").write_text(text)
    with pytest.raises(QualaError, match=r"modules\.json"):
        load_any_model(encoder)


def test_a_plain_encoder_takes_the_mean(encoder: Path) -> None:
    assert load_any_model(encoder, task=Embedding()).task == Embedding(pooling="mean")


def test_a_saved_model_says_how_it_pools(
    encoder: Path, build: Build, tiny_tokenizer_folder: Path, tmp_path: Path
) -> None:
    model = load_any_model(steps(encoder, {"pooling_mode_cls_token": True}))
    folder = tmp_path / "saved"
    save_model(model, AutoTokenizer.from_pretrained(tiny_tokenizer_folder), folder, metadata={})
    again = load_any_model(folder)
    assert (again.task, again.significance.name) == (model.task, "column_sum")
    assert json.loads((folder / "quala.json").read_text())["num_labels"] == 1
    ids = torch.arange(5, 12).unsqueeze(0)
    plain = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    batch: Any = {"input_ids": ids, "attention_mask": torch.ones_like(ids),
                  "segment_ids": torch.zeros_like(ids)}  # fmt: skip
    with torch.inference_mode():
        torch.testing.assert_close(again(batch), plain(ids).last_hidden_state[:, 0])


def test_a_tagger_of_another_tool_names_its_tags(tmp_path: Path, build_hf: BuildHf) -> None:
    hf = build_hf("bert", "token-classification").float()
    names = ("O", "B-A", "I-A", "B-B")
    hf.config.id2label = dict(enumerate(names))
    hf.save_pretrained(tmp_path)
    assert load_any_model(tmp_path).task == Tags(4, names=names)


@pytest.mark.parametrize(
    ("limits", "found"), [({"max_seq_length": 256}, 256), ({"max_seq_length": None}, None)]
)
def test_a_sentence_encoder_says_how_much_it_reads(
    limits: dict[str, Any], found: int | None, tmp_path: Path
) -> None:
    assert tokens_read(tmp_path) is None
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(limits))
    assert tokens_read(tmp_path) == found
