"""`quala export`: from a checkpoint or an export to a folder that answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quala.cli.export import main
from quala.errors import QualaError
from quala.runtime.answerer import load


def test_a_checkpoint_becomes_an_export(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = tmp_path / "checkpoint"
    card.mkdir()
    for file in tiny_checkpoint.iterdir():
        (card / file.name).write_bytes(file.read_bytes())
    facts = {"format": 1, "task": "question-answering", "num_labels": 2, "sequence_length": 128,
             "significance": "span", "semantics": "natural"}  # fmt: skip
    (card / "quala.json").write_text(json.dumps(facts), encoding="utf-8")
    out = tmp_path / "out"
    argv = [str(card), "--out", str(out), "--repeats", "1", "--json"]
    assert main(argv) == 0
    shown = capsys.readouterr()
    assert "no scores" in shown.err
    assert json.loads(shown.out)["sequence_length"] == 128
    assert load(out).answer("Who?", "It was Anna.", keep=0.6).answers


def test_an_export_is_copied(
    export_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(export_folder), "--out", str(tmp_path / "copy")]) == 0
    assert "3 points" in capsys.readouterr().out
    assert (tmp_path / "copy" / "model.onnx").read_bytes() == (
        export_folder / "model.onnx"
    ).read_bytes()


def test_a_folder_with_something_in_it_is_left_alone(export_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(QualaError, match="exists already"):
        main([str(export_folder), "--out", str(tmp_path)])


def test_an_export_follows_no_options(export_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    argv = [str(export_folder), "--out", str(out), "--name", "foo", "--repeats", "0"]
    with pytest.raises(QualaError, match=r"an export already.*`--name`, `--repeats`"):
        main(argv)
    assert not out.exists()


def test_a_checkpoint_without_a_card_is_no_longer_than_its_positions(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = [str(tiny_checkpoint), "--out", str(out), "--name", "mine", "--repeats", "0", "--json"]
    assert main(argv) == 0
    card = json.loads(capsys.readouterr().out)
    assert (card["name"], card["sequence_length"]) == ("mine", 128)
    assert {point["lengths"][0] for point in card["front"][:1]} == {128}
    assert load(out).answer("Who?", "It was Anna. " * 90).answers


def test_a_folder_that_cannot_be_made_is_one_sentence(export_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(QualaError, match=r"`--out` names a folder.*: Not a directory"):
        main([str(export_folder), "--out", str(tmp_path / "file/out")])
