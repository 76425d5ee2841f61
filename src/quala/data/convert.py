"""Rows of any source as typed examples, checked row by row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from quala.data.examples import ClassificationExample, QAExample
from quala.data.records import Place, Row
from quala.errors import QualaError

Placed = Iterable[tuple[Place, Row]]
_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text_a", "text_b"),
)
_SINGLES = ("sentence", "text")
_LABELS = ("label", "labels", "score")


def qa_examples(rows: Placed, *, unanswerable: str) -> list[QAExample]:
    """Return questions with their answers.

    Raises QualaError, with the place of the row, for missing or mistyped columns, repeated
    ids, answers that do not stand at `answer_start`, and (unless `unanswerable` is "drop")
    questions without an answer.
    """
    examples: list[QAExample] = []
    seen: set[str] = set()
    for number, (place, row) in enumerate(rows):
        example = _qa_example(row, place, number=number)
        if example.id in seen:
            raise QualaError(f"{place} repeats the question id `{example.id}`.")
        seen.add(example.id)
        if example.answers:
            examples.append(example)
        elif unanswerable == "refuse":
            raise QualaError(
                f"{place}: question `{example.id}` has no answer, which SQuAD 1.1 does not know; "
                "`unanswerable: drop` leaves such questions out."
            )
    return examples


def _qa_example(row: Row, place: Place, *, number: int) -> QAExample:
    context = _string(row, "context", place)
    texts, starts = _answers(row, place)
    for text, start in zip(texts, starts):
        if not text or context[start : start + len(text)] != text:
            raise QualaError(
                f"{place}: the answer `{text[:40]}` does not stand at answer_start {start}."
            )
    identity = row.get("id")
    return QAExample(
        id=str(number) if identity is None else str(identity),
        title=_string(row, "title", place) if row.get("title") is not None else "",
        context=context,
        question=_string(row, "question", place),
        answers=texts,
        answer_starts=starts,
    )


def _answers(row: Row, place: Place) -> tuple[tuple[str, ...], tuple[int, ...]]:
    answers = row.get("answers")
    if not isinstance(answers, dict) or not {"text", "answer_start"} <= set(answers):
        raise QualaError(
            f"{place}: `answers` must hold `text` and `answer_start`, got {_kind(answers)}."
        )
    texts, starts = answers["text"], answers["answer_start"]
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise QualaError(f"{place}: `text` and `answer_start` must be lists of equal length.")
    if not all(isinstance(text, str) for text in texts):
        raise QualaError(f"{place}: every answer's `text` must be a string.")
    if not all(isinstance(start, int) and start >= 0 for start in starts):
        raise QualaError(f"{place}: every `answer_start` must be a whole number from 0.")
    return tuple(texts), tuple(starts)


def classification_rows(rows: Placed) -> tuple[list[ClassificationExample], list[Any]]:
    """Return unlabelled examples and, beside them, their labels as the source writes them.

    Raises QualaError, with the place of the row, for missing columns and for missing labels.
    """
    examples: list[ClassificationExample] = []
    labels: list[Any] = []
    columns: tuple[str, ...] = ()
    for number, (place, row) in enumerate(rows):
        columns = columns or _text_columns(row, place)
        texts = [_string(row, column, place) for column in columns]
        examples.append(
            ClassificationExample(
                id=str(number), text=texts[0], text_pair=texts[1] if len(texts) > 1 else None
            )
        )
        labels.append(_label(row, place))
    return examples, labels


def _text_columns(row: Row, place: Place) -> tuple[str, ...]:
    for pair in _PAIRS:
        if set(pair) <= set(row):
            return pair
    for single in _SINGLES:
        if single in row:
            return (single,)
    wanted = ", ".join([*_SINGLES, *("+".join(pair) for pair in _PAIRS)])
    raise QualaError(
        f"{place} has no text column: expected one of {wanted}, got {', '.join(row)}."
    )


def _label(row: Row, place: Place) -> Any:
    column = next((name for name in _LABELS if name in row), None)
    if column is None:
        raise QualaError(f"{place} has no `label`; it has {', '.join(row) or 'nothing'}.")
    label = row[column]
    if label is None or label in (-1, "-1", ""):
        raise QualaError(
            f"{place} has no label (got {label!r}): this is an unlabelled split, which cannot be "
            "scored; choose a labelled one with `test_split`."
        )
    if not isinstance(label, (int, float, str)):
        raise QualaError(f"{place}: `{column}` must be a number or a string, got {_kind(label)}.")
    return label


def _string(row: Row, column: str, place: Place) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        columns: Sequence[str] = list(map(str, row))
        if column not in row or value is None:
            raise QualaError(f"{place} has no `{column}`; it has {', '.join(columns)}.")
        raise QualaError(f"{place}: `{column}` must be a string, got {_kind(value)}.")
    return value


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
