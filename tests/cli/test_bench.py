"""`quala bench`: one table of medians and ratios; nothing is said of the times themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from quala.cli.bench import main
from quala.errors import QualaError
from quala.runtime.hardware import Conditions, Watch
from quala.runtime.peers import PEERS


def test_every_point_is_timed_at_every_batch(
    export_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(export_folder), "--baseline", "none", "--batch", "1,8", "--json"]
    assert main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["batch"]) for row in found["timings"]] == [
        (name, batch) for batch in (1, 8) for name in ("int8 full", "int8 128,40", "int8 60,20")
    ]
    assert all(row["p10"] <= row["median"] <= row["p90"] for row in found["timings"])
    assert found["timings"][0]["ratio"] == 1.0
    assert found["processor"]["instructions"]


def test_the_baseline_comes_first(export_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [str(export_folder), "--baseline", "minilm-l6-h384", "--data", "16", "--json"]
    assert main(argv) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)["timings"]]
    assert names[0] == "minilm-l6-h384 fp32, random weights, PyTorch, padded to 128"
    assert names[1] == "minilm-l6-h384 fp32, random weights, onnxruntime"


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    context = "It was written by Anna."
    answers = [{"text": "Anna", "answer_start": 1}]
    asked = [{"id": str(n), "question": f"Who {n}?", "answers": answers} for n in range(6)]
    article = {"title": "A", "paragraphs": [{"context": context, "qas": asked}]}
    file = tmp_path / "dev.json"
    file.write_text(json.dumps({"version": "1.1", "data": [article]}), encoding="utf-8")
    return file


def test_questions_of_a_file_are_answered(
    export_folder: Path, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(export_folder), "--baseline", "minilm-l6-h384", "--data", str(questions), "--json"]
    assert main([*argv, "--questions", "4"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)["timings"]]
    assert names == [
        "minilm-l6-h384 fp32, random weights, PyTorch, padded to 128",
        "minilm-l6-h384 fp32, random weights, onnxruntime",
        "int8 full",
        "int8 128,40",
        "int8 60,20",
        "tokenizing and decoding alone",
    ]


def test_peers_are_timed_and_scored_beside_the_points(
    export_folder: Path,
    tiny_checkpoint: Path,
    questions: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = {name: PEERS[name] for name in ("PyTorch fp32", "ONNX Runtime fp32")}
    monkeypatch.setattr("quala.runtime.peers.PEERS", made)
    argv = [str(export_folder), "--baseline", "none", "--data", str(questions)]
    argv += ["--peers", str(tiny_checkpoint), "--batch", "1,2"]
    assert main([*argv, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["timings"]
    assert [row["name"] for row in rows[:3]] == [*made, "int8 full"]
    assert rows[0]["f1"] == rows[1]["f1"]
    assert rows[-1]["f1"] is None
    assert main(argv) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "batch 2: int8" in said
    assert "the fastest peer (" in said


@pytest.mark.parametrize("others", [0.0, 1.5])
def test_a_busy_machine_is_told(
    export_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    others: float,
) -> None:
    monkeypatch.setattr(Watch, "conditions", lambda watch, spread: Conditions(others, 2, 0.01))
    argv = [str(export_folder), "--baseline", "none", "--data", "16"]
    assert main(argv) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert ("† Measured while the machine was busy: others took 1.5 of 2 cores" in said) == (
        others > 0
    )
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["timings"]
    assert {row["conditions"]["others"] for row in found} == {others}


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["--batch", "0"], "at least 1"),
        (["--batch", "a"], "whole numbers"),
        (["--data", "1"], "`--data` is `natural` or 2 to 128 tokens"),
        (["--data", "129"], "`--data` is `natural` or 2 to 128 tokens"),
        (["--data", "-5"], "`--data` is `natural` or 2 to 128 tokens"),
        (["--data", "short"], "`--data` is `natural` or 2 to 128 tokens"),
        (["--baseline", "bert-bse"], "Did you mean `bert-base`"),
        (["--threads", "0"], "at least 1"),
        (["--batch", "99"], "needs as many inputs, got 32"),
    ],
)
def test_what_cannot_be_is_said(export_folder: Path, argv: list[str], match: str) -> None:
    with pytest.raises(QualaError, match=match):
        main([str(export_folder), *argv])


def test_files_are_for_models_of_questions(export_of: Callable[[str], Path]) -> None:
    with pytest.raises(
        QualaError, match=r"for question answering, this model's task is embedding"
    ):
        main([str(export_of("embedding")), "--baseline", "none", "--data", __file__])
