"""One point of an export as a folder that transformers, optimum and transformers.js read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from exported import LABELS, ExportOf
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModel, AutoTokenizer

from quala.data.features import QAExample
from quala.data.tokenize import qa_features, text_features
from quala.errors import QualaError
from quala.export.standard import write_standard
from quala.manifest import check_folder
from quala.runtime.answerer import load
from quala.runtime.card import Budget

PAIRS = [
    ("who built the bridge?", "anna built the old bridge in the small town long ago."),
    ("where?", "in rome."),
    ("who?", "a man."),
]


def opened(folder: Path) -> onnxruntime.InferenceSession:
    """Open the only graph in a folder, as optimum does."""
    (file,) = folder.rglob("*.onnx")
    return onnxruntime.InferenceSession(file)


def outputs(folder: Path, texts: list[Any]) -> list[NDArray[Any]]:
    """Run texts as one padded batch, with what transformers makes of the folder alone."""
    tokenizer, session = AutoTokenizer.from_pretrained(folder), opened(folder)
    given = [list(part) for part in zip(*texts, strict=True)]
    made = tokenizer(*given, padding=True, truncation=True, return_tensors="np")
    names = [one.name for one in session.get_inputs()]
    found: list[NDArray[Any]] = session.run(
        None, {name: made[name].astype(np.int64) for name in names}
    )
    return found


@pytest.mark.parametrize("keep", [None, 0.6])
def test_a_batch_of_questions_has_the_logits_of_the_export(
    keep: float | None, export_folder: Path, tmp_path: Path
) -> None:
    budget = Budget(keep=keep)
    facts = write_standard(export_folder, tmp_path, budget)
    assert facts["file"] == "onnx/model_quantized.onnx"
    assert facts["outputs"] == ["start_logits", "end_logits"]
    starts, ends = outputs(tmp_path, PAIRS)
    model = load(export_folder)
    point, _ = model.facts.choose(budget, [model.facts.sequence_length])
    assert point.lengths.is_full == (keep is None)
    for row, (question, context) in enumerate(PAIRS):
        one = QAExample("0", "", context, question)
        windows = qa_features([one], model.tokenizer, model.facts.windows)
        (expected,) = model.engine.logits(windows.arrays([0]), point.lengths)
        given = np.stack([starts[row], ends[row]], -1)[: len(expected)]
        np.testing.assert_allclose(given, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "output", "problem"),
    [
        ("classification", "logits", "single_label_classification"),
        ("regression", "logits", "regression"),
        ("token-classification", "logits", None),
        ("embedding", "sentence_embedding", None),
    ],
)
def test_other_tasks_have_the_outputs_of_the_export(
    kind: str, output: str, problem: str | None, export_of: ExportOf, tmp_path: Path
) -> None:
    facts = write_standard(export_of(kind), tmp_path, Budget())
    assert facts["file"] == "onnx/model.onnx"
    assert facts["outputs"][0] == output
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.model_type, config.hidden_size) == ("bert", 32)
    assert config.problem_type == problem
    texts = [(text,) for _, text in PAIRS]
    found, model = outputs(tmp_path, texts)[0], load(export_of(kind))
    for row, (text,) in enumerate(texts):
        features, _ = text_features([(text, None)], model.tokenizer, max_length=64)
        (expected,) = model.engine.logits(features.arrays([0]), None)
        given = found[row, : len(expected)] if kind == "token-classification" else found[row]
        np.testing.assert_allclose(given, expected, atol=1e-4)


def test_the_labels_are_in_the_order_of_the_outputs(export_of: ExportOf, tmp_path: Path) -> None:
    write_standard(export_of("classification"), tmp_path, Budget())
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.id2label == dict(enumerate(LABELS))
    facts = json.loads((tmp_path / "config.json").read_text())
    assert facts["transformers.js_config"] == {"dtype": "fp32"}


def test_texts_are_cut_where_the_export_cuts_them(export_of: ExportOf, tmp_path: Path) -> None:
    write_standard(export_of("classification"), tmp_path, Budget())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer("in rome " * 99, truncation=True)["input_ids"]) == 64


def test_the_tokenizer_is_one_that_versions_4_know(export_of: ExportOf, tmp_path: Path) -> None:
    import shutil

    source = Path(shutil.copytree(export_of("classification"), tmp_path / "source"))
    facts = json.loads((source / "tokenizer_config.json").read_text())
    facts |= {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["[X]"]}
    (source / "tokenizer_config.json").write_text(json.dumps(facts))
    (source / "manifest.json").unlink()
    out = tmp_path / "out"
    out.mkdir()
    write_standard(source, out, Budget())
    found = json.loads((out / "tokenizer_config.json").read_text())
    assert found["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert found["additional_special_tokens"] == ["[X]"]
    assert "extra_special_tokens" not in found


def test_transformers_does_not_load_it_as_its_own(export_folder: Path, tmp_path: Path) -> None:
    write_standard(export_folder, tmp_path, Budget())
    with pytest.raises(OSError, match="no file named"):
        AutoModel.from_pretrained(tmp_path)
    check_folder(tmp_path)


def test_the_cards_list_inputs_and_outputs(export_folder: Path, tmp_path: Path) -> None:
    write_standard(export_folder, tmp_path, Budget(lengths=(60, 20)))
    text = (tmp_path / "README.md").read_text()
    assert "tokens per layer 60,20" in text
    row = "| `token_type_ids` | int64 | (batch_size, sequence_length) |"
    assert row in text
    assert "| output | `end_logits` | float32 | (batch_size, sequence_length) |" in text
    assert 'ORTModelForQuestionAnswering.from_pretrained(".", file_name="model_quantized' in text
    own = (export_folder / "README.md").read_text()
    assert "| input | `lengths` | int64 | (2) | tokens that each layer keeps of 128;" in own
    assert "| output | `logits` | float32 | (batch, tokens, 2) |" in own


def test_an_embedding_that_drops_says_what_it_lacks(export_of: ExportOf, tmp_path: Path) -> None:
    facts = write_standard(export_of("embedding"), tmp_path, Budget(keep=0.8))
    assert facts["outputs"] == ["sentence_embedding"]
    assert "ORTModelForCustomTasks" in (tmp_path / "README.md").read_text()


def test_lengths_of_another_model_are_refused(export_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(QualaError, match="Expected 2 lengths"):
        write_standard(export_folder, tmp_path, Budget(lengths=(60, 20, 10)))
