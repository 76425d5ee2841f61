"""`quala teach`: files of answers, resumed bit by bit, and refusals before a model is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quala.cli import teach
from quala.cli.entry import main
from quala.data.demo import demo_examples
from quala.data.spec import DataSpec
from quala.data.teacher_file import ClassAnswers, read_teacher_file
from quala.errors import QualaError
from quala.stages.outside_teacher import ModelTeacher

SHORT = ["--max-length", "96", "--doc-stride", "16", "--max-question-length", "24"]


class Killed(Exception):
    """Stands for a kill."""


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Twenty questions of the demo set, as a file."""
    rows = [
        {
            "id": one.id, "context": one.context, "question": one.question,
            "answers": {"text": list(one.answers), "answer_start": list(one.answer_starts)},
        }
        for one in demo_examples()[0][:20]
    ]  # fmt: skip
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.fixture
def command(tiny_checkpoint: Path, questions: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return the command as a function of the file's name."""

    def run(name: str, *words: str, model: Path = tiny_checkpoint) -> Path:
        out = tmp_path / name
        asked = [str(model), "--data", str(questions), "--out", str(out), *SHORT]
        assert teach.main([*asked, "--batch-size", "1", *words]) == 0
        return out

    return run


def test_the_file_says_what_the_model_says(
    command: Any, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = read_teacher_file(command("t.npz", "--top", "4"))
    assert "20 questions" in capsys.readouterr().out
    spec = DataSpec(
        task="squad", name="demo", max_length=96, doc_stride=16, max_question_length=24
    )
    examples: Any = demo_examples()[0][:20]
    from quala.data.task import Span

    model = ModelTeacher.load(tiny_checkpoint, spec, Span(), 4)
    expected = model.answers(examples).top(4)
    back = found.answers(examples)
    assert back.character.shape == (20, 2, 4)
    np.testing.assert_array_equal(back.character, expected.character)
    np.testing.assert_allclose(back.log_probability, expected.log_probability, atol=5e-3)


def test_a_killed_command_goes_on_with_the_same_bytes(
    command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = command("whole.npz").read_bytes()
    asked: list[int] = []
    original = ModelTeacher.answers

    def answers(self: ModelTeacher, examples: Any) -> Any:
        if len(asked) == 1:
            asked.append(0)
            raise Killed
        asked.append(len(examples))
        return original(self, examples)

    monkeypatch.setattr(ModelTeacher, "answers", answers)
    with pytest.raises(Killed):
        command("resumed.npz")
    assert not (tmp_path / "resumed.npz").exists()
    with pytest.raises(QualaError, match=r"parts that were made with another --top"):
        command("resumed.npz", "--top", "2")
    assert command("resumed.npz").read_bytes() == whole
    assert sum(asked) == 20
    assert not (tmp_path / "resumed.npz.part").exists()


def test_classes_have_the_names_of_the_model(
    tiny_tokenizer_folder: Path, sentences: DataSpec, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, num_labels=2,
        id2label={0: "bad", 1: "good"},
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    out = tmp_path / "t.jsonl"
    words = ["teach", str(tmp_path / "model"), "--data", str(sentences.path), "--out", str(out)]
    assert main([*words, "--json"]) == 0
    found = read_teacher_file(out)
    assert isinstance(found.content, ClassAnswers)
    assert found.content.labels == ("bad", "good")
    assert len(found.rows) == 160
    assert found.content.probability.std() > 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out", "there.npz"], "`there.npz` exists already"),
        (["--out", "gone/t.npz"], "`--out`: there is no folder"),
        (["--out", "t.jsonl"], "Unknown ending of `--out` `.jsonl`. Allowed: .npz, .parquet."),
        (["--out", "t.npz", "--split", "test"], "split of the demo set `test`. Allowed: train"),
        (["--out", "t.npz", "--top", "0"], "`--top` must be at least 1"),
        (["--out", "t.npz", "--columns", "text"], "`--columns` must be NAME=COLUMN, got `text`"),
    ],
)
def test_bad_words_are_refused(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    words: list[str], sentence: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.npz").write_text("mine")
    with pytest.raises(QualaError, match=re.escape(sentence)):
        teach.main([str(tiny_checkpoint), "--data", "demo", *words])
    assert (tmp_path / "there.npz").read_text() == "mine"


def test_an_export_has_no_distributions(export_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(QualaError, match="is an export, which gives answers without"):
        teach.main([str(export_folder), "--data", "demo", "--out", str(tmp_path / "t.npz")])
