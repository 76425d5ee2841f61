"""`quala evaluate`: figures, and one sentence for every bad file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quala.cli.evaluate import main, read_predictions
from quala.errors import QualaError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    questions = [
        {"id": f"q{n}", "question": "?", "answers": [{"text": "Ada Bell", "answer_start": 0}]}
        for n in range(4)
    ]
    paragraph = {"context": "Ada Bell sings.", "qas": questions}
    file = tmp_path / "dev.json"
    file.write_text(json.dumps({"data": [{"title": "t", "paragraphs": [paragraph]}]}))
    return file


def _predictions(folder: Path, content: object) -> str:
    file = folder / "predictions.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(file)


def test_json_has_the_official_figures(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = _predictions(tmp_path, {"q0": "the Ada Bell!", "q1": "Ada", "q2": "no"})
    assert main(["--data", str(data), "--predictions", predictions, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("exact_match_interval") == pytest.approx(
        [4.559, 69.936], abs=1e-3
    )  # Wilson's
    low, high = found.pop("f1_interval")
    assert 0 <= low < found["f1"] < high <= 100
    assert found == {
        "exact_match": 25.0,
        "f1": 100 * (1 + 2 / 3) / 4,
        "total": 4,
        "missing": 1,
        "unknown": 0,
    }


def test_offsets_do_not_count(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(data.read_text())
    for number, question in enumerate(content["data"][0]["paragraphs"][0]["qas"]):
        question["answers"][0] = (
            {"text": "Ada Bell", "answer_start": 90} if number else {"text": "x"}
        )
    data.write_text(json.dumps(content))
    predictions = _predictions(tmp_path, {f"q{number}": "Ada Bell" for number in range(4)})
    assert main(["--data", str(data), "--predictions", predictions, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exact_match"] == 75.0


def test_a_byte_order_mark_is_no_part_of_predictions(tmp_path: Path) -> None:
    predictions = _predictions(tmp_path, '\ufeff{"q0": "Ada Bell"}')
    assert read_predictions(Path(predictions)) == {"q0": "Ada Bell"}


def test_table_shows_missing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--data", str(data), "--predictions", _predictions(tmp_path, {"q0": "Ada Bell"})])
    shown = capsys.readouterr().out
    assert "25.0000" in shown
    assert "4.6 to 69.9" in shown
    assert "Missing" in shown


def test_answers_without_blanks_between_words_are_said_aloud(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.write_text(data.read_text().replace("Ada Bell", "\\u5317\\u4eac"))
    main(["--data", str(data), "--predictions", _predictions(tmp_path, {})])
    assert "F1 counts each as one word" in capsys.readouterr().err


def test_unknown_ids_are_counted_aloud(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--data", str(data), "--predictions", _predictions(tmp_path, {"a": "", "b": ""})])
    assert "2 predicted ids" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "must be one object"),
        ({"q0": 3}, "`q0` must be a string, got int"),
        ({"q0": None}, "`q0` must be a string, got nothing"),
        ('{"q0": "A', "is the file complete"),
        ("", "is empty"),
        ('{"q0": ' + "[" * 9999, "line 1 is nested deeper than 100"),
        ('{\n"q0": ' + "9" * 5000 + "}", "line 2 has a number that is too long"),
        ('{"q0": "A", "q1": "B", "q0": "C"}', "have the id `q0` twice"),
    ],
)
def test_bad_predictions_are_one_sentence(content: object, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(QualaError, match=sentence):
        read_predictions(Path(_predictions(tmp_path, content)))


def test_bytes_that_are_not_text_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(QualaError, match="UTF-8"):
        read_predictions(tmp_path / "p.json")


def test_absent_predictions_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(QualaError, match="No such file"):
        read_predictions(tmp_path / "none.json")


def test_absent_data_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(QualaError, match="nowhere"):
        main(["--data", "nowhere.json", "--predictions", _predictions(tmp_path, {})])


def test_a_mistake_in_the_data_names_options_of_the_command(tmp_path: Path) -> None:
    question = {"id": "q", "question": "?", "answers": []}
    file = tmp_path / "dev.json"
    paragraph = {"context": "Ada Bell sings.", "qas": [question]}
    file.write_text(json.dumps({"data": [{"title": "t", "paragraphs": [paragraph]}]}))
    with pytest.raises(QualaError, match="; `--drop-unanswerable` leaves"):
        main(["--data", str(file), "--predictions", _predictions(tmp_path, {"q": "x"})])
