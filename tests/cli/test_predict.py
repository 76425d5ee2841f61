"""`quala predict`: texts, files and passages in, predictions out, one sentence for the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from exported import LABELS, ExportOf

from quala.cli import entry
from quala.cli.predict import main
from quala.errors import QualaError
from quala.runtime.answerer import load

TEXT = "The report was written by Anna."


@pytest.fixture
def classifier(export_of: ExportOf) -> str:
    return str(export_of("classification"))


@pytest.fixture
def regressor(export_of: ExportOf) -> str:
    return str(export_of("regression"))


def test_labels_with_probabilities(classifier: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([classifier, "--text", TEXT, "--top-k", "0", "--keep", "0.6"]) == 0
    told = capsys.readouterr().out
    assert all(f" {label} " in told for label in LABELS)
    assert "1 window, tokens per layer 40,20 of 64" in told
    assert main([classifier, "--text", TEXT, "--pair", "Paris", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["label"] in LABELS
    assert [one["label"] for one in found["scores"]] == [found["label"]]


def test_a_value_of_files(
    regressor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text(TEXT + "\n")
    (tmp_path / "pair.txt").write_text("word " * 99)
    pair = f"@{tmp_path / 'pair.txt'}"
    assert main([regressor, "--text", f"@{tmp_path / 'text.txt'}", "--pair", pair]) == 0
    told = capsys.readouterr()
    assert "Value" in told.out
    assert "of which the model reads 64" in told.err


def test_the_rows_of_a_file(
    classifier: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "in.csv", tmp_path / "out.csv"
    data.write_text("review,label\nfine,good\n,bad\n")
    argv = [classifier, "--data", str(data), "--out", str(out), "--columns", "text=review"]
    assert main(argv) == 0
    told = capsys.readouterr()
    assert told.out == f"Predicted 1 of 2 rows to {out}.\n"
    assert told.err == "warning: row 2: The text is empty.\n"
    assert out.read_text().startswith("review,label,prediction,probability,note,error\nfine,good,")
    out.unlink()
    data.write_text("review,label\n,bad\n")
    assert main([*argv, "--json"]) == 1  # nothing was predicted
    told = capsys.readouterr()
    assert json.loads(told.out)["failures"] == [{"row": 1, "error": "The text is empty."}]


def test_passages_by_their_score(
    regressor: str, classifier: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    passages = ["Anna wrote it.", "It was printed in Paris.", "A long way."]
    lines, rows = tmp_path / "passages.txt", tmp_path / "passages.jsonl"
    lines.write_text("\n\n".join(passages))
    rows.write_text("".join(json.dumps({"body": one}) + "\n" for one in ["", *passages]))
    argv = ["--query", TEXT, "--json", "--passages"]
    assert main([regressor, *argv, str(lines)]) == 0
    found = json.loads(capsys.readouterr().out)["passages"]
    wanted = load(regressor).rank(TEXT, passages)  # type: ignore[union-attr]
    assert [one["text"] for one in found] == [passages[one.place] for one in wanted]
    assert [one["row"] for one in found] == [1 + 2 * one.place for one in wanted]
    assert [one["score"] for one in found] == pytest.approx([one.score for one in wanted])
    with pytest.raises(QualaError, match="`--columns` is for files of rows"):
        main([regressor, *argv, str(lines), "--columns", "text=body"])
    argv = [classifier, *argv, str(rows), "--columns", "text=body", "--label", "fair"]
    assert main([*argv, "--top-k", "2"]) == 0
    told = capsys.readouterr()
    assert told.err == "warning: row 1 is left out: The passage is empty.\n"
    assert len(json.loads(told.out)["passages"]) == 2
    assert main([one for one in argv if one != "--json"]) == 0
    assert "Paris" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "Give one of `--text`, `--data` and `--query`, got none"),
        (["--text", "a", "--data", "b.csv"], "got `--text` and `--data`"),
        (["--text", "a", "--out", "b.csv"], "`--out` goes with `--data`, got `--text`"),
        (["--data", "b.csv"], "`--data` needs `--out` too"),
        (["--query", "a"], "`--query` needs `--passages` too"),
        (["--query", "a", "--pair", "b", "--passages", "c"], "`--pair` goes with `--text`"),
        (["--text", "a", "--columns", "text=b"], "`--columns` is for files"),
        (["--text", "a", "--task", "embed"], "cannot embed: its task is classification"),
        (["--text", "a", "--task", "embedding"], "Unknown task `embedding`"),
        (["--text", "\t"], "The text is empty"),
        (["--text", "a", "--lengths", "9,9,9"], "lengths"),
        (["--data", "b.csv", "--out", "c.csv", "--columns", "text"], "takes `text=review`"),
    ],
)
def test_what_does_not_go_together(classifier: str, argv: list[str], sentence: str) -> None:
    with pytest.raises(QualaError, match=sentence):
        main([classifier, *argv])


def test_each_verb_names_the_other(
    classifier: str, export_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(["predict", str(export_folder), "--text", "a"]) == 2
    assert "answers questions: use `quala answer`" in capsys.readouterr().err
    assert entry.main(["answer", classifier, "--question", "a", "--context", "b"]) == 2
    assert "its task is classification: use `quala predict`" in capsys.readouterr().err


def test_predictions_of_questions_are_scored(
    export_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [{"text": "Anna", "answer_start": 0}]
    asked = {"id": "1", "question": "Who?", "answers": answers}
    article = {"title": "t", "paragraphs": [{"context": "Anna wrote it.", "qas": [asked]}]}
    data, out = tmp_path / "dev.json", tmp_path / "predictions.json"
    data.write_text(json.dumps({"data": [article]}))
    argv = ["predict", str(export_folder), "--data", str(data), "--out", str(out), "--n-best", "2"]
    assert entry.main(argv) == 0
    capsys.readouterr()
    words = ["evaluate", "--data", str(data), "--predictions", str(out), "--json"]
    assert entry.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["unknown"], found["missing"]) == (0, 0)
    assert (tmp_path / "nbest_predictions.json").is_file()


def test_predicting_needs_no_torch(classifier: str, tmp_path: Path) -> None:
    data = tmp_path / "in.jsonl"
    data.write_text(json.dumps({"text": TEXT}) + "\n")
    code = (
        "import sys\nfrom quala.cli.entry import main\n"
        f"assert not main(['predict', {classifier!r}, '--text', 'a'])\n"
        f"assert not main(['predict', {classifier!r}, '--data', {str(data)!r}, '--out', "
        f"{str(tmp_path / 'out.csv')!r}])\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'datasets', 'pyarrow', 'pandas'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
