"""`quala answer`: text in, an answer out, and one sentence for what cannot be."""

from __future__ import annotations

import importlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unanswerable import with_threshold

from quala.cli import entry
from quala.cli.answer import main, text_of
from quala.cli.output import warn
from quala.errors import QualaError

QUESTION = "Who wrote the report?"
CONTEXT = "Its report was written by Anna, a lawyer."


def ask(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main([*argv, "--question", QUESTION, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_an_answer_as_json(export_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask(capsys, str(export_folder), "--context", CONTEXT, "--top-k", "2")
    assert len(found["answers"]) == 2
    first = found["answers"][0]
    assert CONTEXT[first["start"] : first["end"]] == first["text"]
    assert found["lengths"] == [128, 128]
    assert found["windows"] == 1


@pytest.mark.parametrize("text", ["list[int]", "[/b]", "[bold]", ":smile:"])
def test_what_is_printed_is_text_not_markup(
    text: str, export_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(export_folder), "--question", QUESTION, "--context", text, "--top-k", "99"]
    assert main(argv) == 0
    assert f" {text} " in capsys.readouterr().out


def test_a_warning_is_text_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    warn("d/x[old]/data.jsonl [/nested] :smile:")
    assert capsys.readouterr().err == "warning: d/x[old]/data.jsonl [/nested] :smile:\n"


def test_a_model_that_gives_nan_has_no_answer(
    export_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def logits(engine: object, inputs: Any, lengths: object) -> Any:
        value = 0.0 if lengths is None else np.nan  # the first call is that of loading
        return np.full((*inputs["input_ids"].shape, 2), value, np.float32)

    monkeypatch.setattr("quala.runtime.engine.GraphEngine.logits", logits)
    with pytest.raises(QualaError, match="logits that are NaN or infinite"):
        ask(capsys, str(export_folder), "--context", CONTEXT)
    assert capsys.readouterr().out == ""


def test_a_question_that_is_cut_is_said(
    export_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(export_folder), "--question", "who " * 70, "--context", CONTEXT, "--json"]
    assert main(argv) == 0
    shown = capsys.readouterr()
    sentence = "The question has 70 tokens, of which the model reads the first 64."
    assert shown.err == f"warning: {sentence}\n"
    assert json.loads(shown.out)["note"] == sentence


def test_bytes_that_are_no_text_are_one_sentence(
    export_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = os.fsdecode(b"Who \xff?")
    words = ["answer", str(export_folder), "--question", question, "--context", CONTEXT]
    assert entry.main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "error: The argument `Who \\udcff?` is no UTF-8 text.\n"


def test_the_context_may_lie_in_a_file(
    export_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text(CONTEXT, encoding="utf-8-sig")
    assert text_of(f"@{tmp_path / 'text.txt'}") == CONTEXT
    found = ask(capsys, str(export_folder), "--context", f"@{tmp_path / 'text.txt'}")
    assert found["answers"][0]["text"] in CONTEXT


def test_the_context_may_come_from_standard_input(
    export_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = io.TextIOWrapper(io.BytesIO(CONTEXT.encode()), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", source)
    assert ask(capsys, str(export_folder), "--context", "-")["answers"]


def test_a_budget_below_the_front_is_said(
    export_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(export_folder), "--question", QUESTION, "--context", CONTEXT]
    assert main([*argv, "--budget-macs", "10"]) == 0
    shown = capsys.readouterr()
    assert "No point of the front costs at most 10 MACs" in shown.err
    assert "60,20 of 128" in shown.out


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["--context", "@/no/such/file"], "cannot be read"),
        (["--context", ""], "context is empty"),
        (["--context", CONTEXT, "--keep", "2"], "at most 1"),
        (["--context", CONTEXT, "--lengths", "a,b"], "whole numbers"),
        (["--context", CONTEXT, "--lengths", "9"], "Expected 2 lengths"),
        (["--context", CONTEXT, "--budget-macs", "1", "--strict"], "No point of the front"),
        (["--context", CONTEXT, "--runtime", "onnxruntme"], "Did you mean `onnxruntime`"),
        (["--context", CONTEXT, "--threads", "0"], "`--threads` must be at least 1"),
        (["--context", CONTEXT, "--threads", "10000"], "and at most .*, got 10000"),
    ],
)
def test_what_cannot_be_is_said(export_folder: Path, argv: list[str], match: str) -> None:
    with pytest.raises(QualaError, match=match):
        main([str(export_folder), "--question", QUESTION, *argv])


def test_a_context_that_is_no_text_is_refused(export_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(QualaError, match="not readable as UTF-8"):
        main([str(export_folder), "--question", QUESTION, "--context", f"@{tmp_path / 'bytes'}"])


@pytest.mark.parametrize(("model", "said"), [("minilm-squad", True), ("./minilm-squad", False)])
@pytest.mark.parametrize("verb", ["answer", "serve", "bench", "export"])
def test_a_folder_wins_over_a_shipped_model_in_every_verb(
    verb: str,
    model: str,
    said: bool,
    export_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(export_folder, tmp_path / "minilm-squad")
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(
        "quala.serve.server.serve", lambda app, held, ready: seen.append(app.state.dispatcher)
    )
    words = {
        "answer": ["--question", QUESTION, "--context", CONTEXT, "--json"],
        "serve": ["--port", "0"],
        "bench": ["--baseline", "none", "--data", "16", "--json"],
        "export": ["--out", "copy", "--json"],
    }[verb]
    module = importlib.import_module(f"quala.cli.{verb}")
    assert module.main([model, *words]) == 0
    shown = capsys.readouterr()
    assert ("the folder here" in shown.err) == said
    found = json.loads(shown.out) if "--json" in words else {}
    if verb == "answer":
        assert found["lengths"] == [128, 128]  # the toy has two layers, the shipped model six
    elif verb == "serve":
        assert seen[0]._steps.facts.name == "tiny"
    else:
        assert found["model" if verb == "bench" else "name"] == "tiny"


@pytest.mark.parametrize("model", ["/no/such/folder", "0" * 32, "models:/none@champion"])
def test_a_model_that_is_nowhere_is_refused(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QualaError, match=r"no folder|no tracking store"):
        main([model, "--question", QUESTION, "--context", CONTEXT])


@pytest.mark.parametrize(("threshold", "chance"), [(-1e9, 1.0), (1e9, 0.0)])
def test_a_model_may_give_no_answer(
    threshold: float,
    chance: float,
    export_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = str(with_threshold(export_folder, tmp_path / "null", threshold))
    found = ask(capsys, folder, "--context", CONTEXT)
    plain = ask(capsys, str(export_folder), "--context", CONTEXT)
    assert found["no_answer"] == chance
    assert "no_answer" not in plain
    assert found["answers"] == ([] if chance else plain["answers"])
    assert main([folder, "--question", QUESTION, "--context", CONTEXT]) == 0
    shown = capsys.readouterr().out
    assert f"no answer (probability {chance:.2f})" in shown
    assert ("Answer" in shown) is not bool(chance)
