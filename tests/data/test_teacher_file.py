"""Files of a teacher's answers: what is read, what is written, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quala.data.characters import NO_ANSWER, CharacterAnswers
from quala.data.features import ClassificationExample, QAExample
from quala.data.teacher_file import (
    ClassAnswers,
    is_teacher_file,
    read_teacher_file,
    write_teacher_file,
)
from quala.errors import QualaError

CONTEXT = "a cat and a cat and a dog"
ASKED = [QAExample("q1", "", CONTEXT, "who?"), QAExample("q2", "", CONTEXT, "what?")]
TEXTS = [ClassificationExample(name, "t", None) for name in ("2", "1")]


def answers() -> CharacterAnswers:
    character = np.array([[[2, 12], [5, 15]], [[22, 0], [25, 0]]])
    scores = np.log([[[0.75, 0.25], [0.5, 0.5]], [[1, 1e-9], [1, 1e-9]]])
    scores[1, :, 1] = -np.inf
    return CharacterAnswers(character, scores, np.array([3.0, 4.0]))


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_answers_come_back_by_id(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"t.{ending}"
    write_teacher_file(file, ["q2", "q1"], answers())
    found = read_teacher_file(file)
    assert found.holds == "answers"
    back = found.answers([ASKED[1], ASKED[0], QAExample("q3", "", CONTEXT, "?")])
    assert back.character[:2].tolist() == answers().character.tolist()
    np.testing.assert_allclose(back.log_probability[:2], answers().log_probability, atol=1e-3)
    assert np.isneginf(back.log_probability[2]).all()
    assert found.missing([QAExample("q3", "", CONTEXT, "?"), ASKED[0]]) == ["q3"]


@pytest.mark.parametrize("ending", ["jsonl", "npz", "parquet"])
@pytest.mark.parametrize("labels", [("no", "yes", "id"), ("no", "yes", "maybe"), ()])
def test_classes_come_back_by_id(tmp_path: Path, ending: str, labels: tuple[str, ...]) -> None:
    file = tmp_path / f"t.{ending}"
    table = np.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]])
    write_teacher_file(file, ["1", "2"], ClassAnswers(table, labels))
    found = read_teacher_file(file)
    assert isinstance(found.content, ClassAnswers)
    assert found.content.labels == (() if "id" in labels else labels)
    assert found.classes(TEXTS).tolist() == table[::-1].tolist()
    assert np.isnan(found.classes([ClassificationExample("3", "t", None)])).all()


def test_probabilities_may_be_an_object_by_label(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    rows = [{"id": 1, "probabilities": {"b": 0.25, "a": 0.75}}]
    rows += [{"id": 2, "probabilities": {"a": 1.0, "b": 0.0}}]
    file.write_text("\n".join(map(json.dumps, rows)))
    found = read_teacher_file(file)
    assert isinstance(found.content, ClassAnswers)
    assert found.content.labels == ("b", "a")
    assert found.classes(TEXTS).tolist() == [[0, 1], [0.25, 0.75]]


def test_the_layout_of_other_tools_is_read(tmp_path: Path) -> None:
    file = tmp_path / "t.npz"
    shape = (1, 2, 16)
    np.savez_compressed(
        file, id=np.array(["q1"]), character=np.full(shape, 2, np.int32),
        log_probability=np.full(shape, -np.inf, np.float16),
    )  # fmt: skip
    assert read_teacher_file(file).answers(ASKED[:1]).character.shape == shape


def test_texts_of_a_list_are_looked_for_in_the_context(tmp_path: Path) -> None:
    file = tmp_path / "nbest_predictions.json"
    entries = [("cat", 0.5), ("dog", 0.25), ("", 0.125), ("cow", 0.125)]
    lists = [{"text": text, "probability": share} for text, share in entries]
    two = [{"text": "dog", "start_logit": 1.0, "end_logit": 2.0}, {"text": "cat", "start_logit": 2.0, "end_logit": 1.0}]  # fmt: skip  # noqa: E501
    file.write_text(json.dumps({"q1": lists, "q2": two}))
    found = read_teacher_file(file).answers(ASKED)
    said = dict(zip(found.character[0, 0].tolist(), np.exp(found.log_probability[0, 0]).tolist()))
    # Two cats share what the text has; a cow is not there.
    assert said == pytest.approx({2: 0.25, 12: 0.25, 22: 0.25, NO_ANSWER: 0.125})
    assert found.character[0, 1].tolist() == [5, 15, 25, NO_ANSWER]
    even = np.exp(found.log_probability[1, 0])[np.isfinite(found.log_probability[1, 0])]
    assert even.tolist() == pytest.approx([0.5, 0.25, 0.25])


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no id": ({"character": np.zeros((1, 2, 1), int)}, "has no `id`; it has character"),
    "twice": ({"id": np.array(["a", "a"])}, "has the id `a` twice"),
    "pickled": ({"id": np.array([object()])}, "not a readable npz file: .*allow_pickle"),
    "shape": (
        {
            "id": np.array(["a"]),
            "character": np.zeros((1, 3, 1), int),
            "log_probability": np.zeros((1, 3, 1)),
        },
        r"`character` must be numbers \(1, 2, K\), got 1x3x1 int64",
    ),
    "no scores": (
        {"id": np.array(["a"]), "character": np.zeros((1, 2, 1), int)},
        "`character` without `log_probability`",
    ),
    "not logarithms": (
        {
            "id": np.array(["a"]),
            "character": np.zeros((1, 2, 1), int),
            "log_probability": np.ones((1, 2, 1)),
        },
        "add up to 2.72, at most 1",
    ),
    "logits": ({"id": np.array(["a"]), "probabilities": np.array([[2.0, -1.0]])}, "row 1: prob"),
    "labels": (
        {
            "id": np.array(["a"]),
            "probabilities": np.array([[0.5, 0.5]]),
            "labels": np.array(["x"]),
        },
        "`labels` must be 2 different names, got x",
    ),
    "not finite": ({"id": np.array(["a"]), "value": np.array([np.inf])}, "`value` must be finite"),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_broken_file_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    file, (arrays, sentence) = tmp_path / "t.npz", BROKEN[name]
    np.savez(file, allow_pickle=True, **arrays)
    with pytest.raises(QualaError, match=sentence):
        read_teacher_file(file)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QualaError, match=r"Allowed: .json, .jsonl, .npz, .parquet"):
        read_teacher_file(tmp_path / "t.csv")
    with pytest.raises(QualaError, match="no teacher's file at"):
        read_teacher_file(tmp_path / "t.npz")
    (tmp_path / "t.npz").write_bytes(b"PK")
    with pytest.raises(QualaError, match="is damaged, or is no"):
        read_teacher_file(tmp_path / "t.npz")
    (tmp_path / "t.json").write_text('{"q1": [{"text": "x"}]}')
    with pytest.raises(QualaError, match="`q1` must be a list of objects with `text`"):
        read_teacher_file(tmp_path / "t.json")
    with pytest.raises(QualaError, match=r"Allowed: .npz, .parquet"):
        write_teacher_file(tmp_path / "t.jsonl", ["q1"], answers())
    assert is_teacher_file("x/T.NPZ")
    assert not is_teacher_file("google-bert/bert-base-uncased")


def test_a_file_of_one_kind_does_not_answer_the_other(tmp_path: Path) -> None:
    file = tmp_path / "t.npz"
    write_teacher_file(file, ["1"], ClassAnswers(np.array([[1.0]]), ()))
    with pytest.raises(QualaError, match="holds classes of texts"):
        read_teacher_file(file).answers(ASKED)
