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


@pytest.fixture
def unanswerable(data: Path) -> Path:
    """The same questions, of which q2 and q3 have no answer."""
    content = json.loads(data.read_text())
    for number, question in enumerate(content["data"][0]["paragraphs"][0]["qas"]):
        question["is_impossible"] = number > 1
        if number > 1:
            question["answers"] = []
            question["plausible_answers"] = [{"text": "Ada", "answer_start": 0}]
    data.write_text(json.dumps(content))
    return data


def test_questions_without_an_answer_make_the_figures_those_of_version_2(
    unanswerable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _predictions(tmp_path, {"q0": "Ada Bell", "q1": "", "q2": "", "q3": "Ada"})
    assert main(["--data", str(unanswerable), "--predictions", said, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["exact_match_interval"][0] < 50 < found["exact_match_interval"][1]
    del found["exact_match_interval"], found["f1_interval"]
    assert found == {
        **dict.fromkeys((f"{part}{name}" for part in ("", "has_answer_", "no_answer_")
                         for name in ("exact_match", "f1")), 50.0),
        "total": 4, "has_answer_total": 2, "no_answer_total": 2, "missing": 0, "unknown": 0,
    }  # fmt: skip
    assert main(["--data", str(unanswerable), "--predictions", said]) == 0
    shown = capsys.readouterr().out
    assert "F1, without an answer" in shown
    assert "threshold" not in shown


def test_without_them_the_figures_are_those_of_version_1(
    unanswerable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _predictions(tmp_path, {"q0": "Ada Bell", "q1": ""})
    options = ["--drop-unanswerable", "--json"]
    assert main(["--data", str(unanswerable), "--predictions", said, *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["f1"], found["total"]) == (50.0, 2)
    assert "has_answer_f1" not in found


def test_probabilities_of_no_answer_give_the_best_threshold(
    unanswerable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _predictions(tmp_path, {f"q{number}": "Ada Bell" for number in range(4)})
    chances = tmp_path / "na_prob.json"
    chances.write_text(json.dumps({"q0": 0.1, "q1": 0.3, "q2": 0.8, "q3": 0.9}))
    options = ["--data", str(unanswerable), "--predictions", said, "--na-prob", str(chances)]
    assert main([*options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["f1"], found["best_f1"], found["best_f1_threshold"]) == (50.0, 100.0, 0.3)
    assert main([*options, "--na-prob-threshold", "0.85", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["f1"], found["best_exact_match"]) == (75.0, 100.0)
    assert found["f1_interval"][0] < 75 < found["f1_interval"][1]
    assert main(options) == 0
    assert "F1: 100.0000 with the best threshold, 0.3." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"q0": "0.1"}, "the probability for `q0` must be a number, got '0.1'"),
        ({"q0": True}, "must be a number, got True"),
        ([0.1], "must be one object"),
        ({}, "lack the question `q0`"),
    ],
)
def test_bad_probabilities_are_one_sentence(
    content: object, sentence: str, unanswerable: Path, tmp_path: Path
) -> None:
    said = _predictions(tmp_path, {"q0": ""})
    chances = tmp_path / "na_prob.json"
    chances.write_text(json.dumps(content))
    with pytest.raises(QualaError, match=sentence):
        main(["--data", str(unanswerable), "--predictions", said, "--na-prob", str(chances)])


def test_probabilities_need_questions_without_an_answer(data: Path, tmp_path: Path) -> None:
    said = _predictions(tmp_path, {"q0": ""})
    chances = tmp_path / "na_prob.json"
    chances.write_text(json.dumps({"q0": 0.5}))
    with pytest.raises(QualaError, match="all questions of the data have answers"):
        main(["--data", str(data), "--predictions", said, "--na-prob", str(chances)])
