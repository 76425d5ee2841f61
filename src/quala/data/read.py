"""Rows of a data set to examples, and their labels to class indices or values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quala.data.features import ClassificationExample, QAExample
from quala.data.files import (
    Place,
    Row,
    Rows,
    data_files,
    missing_split,
    names_splits,
    read_rows,
    source_path,
    split_files,
)
from quala.data.spec import DataSpec
from quala.data.task import Classes, Task, Value
from quala.errors import QualaError

# A guess: more classes mean that the column is no label but an id or a count.
MAX_CLASSES = 1000


def labeled_task(labels: Sequence[Any], subset: str | None) -> Classes | Value:
    """Return the task that fits the training labels.

    Fractional numbers, or the subset `stsb`, make a regression. Whole numbers from 0 are class
    indices; anything else is a name, and the names are indexed in sorted order.
    """
    # `quala.metrics.glue` imports torch.
    from quala.metrics.glue import task_metrics

    numbers = _numbers(labels)
    if subset == "stsb" and numbers is None:
        raise QualaError("A regression task needs numbers as labels, got strings.")
    if numbers is not None and (subset == "stsb" or any(one != int(one) for one in numbers)):
        return Value(metrics=task_metrics(subset, regression=True))
    if numbers is None:
        names = tuple(sorted({str(label) for label in labels}))
    elif min(numbers) < 0 or max(numbers) >= MAX_CLASSES:
        raise QualaError(
            f"Class labels must lie in 0 to {MAX_CLASSES - 1}, "
            f"got {min(numbers):g} to {max(numbers):g}."
        )
    else:
        names = tuple(str(index) for index in range(int(max(numbers)) + 1))
    return Classes(len(names), task_metrics(subset, regression=False), names)


def with_labels(
    examples: Sequence[ClassificationExample], labels: Sequence[Any], *, task: Task
) -> list[ClassificationExample]:
    """Return the examples with their labels as class indices or values.

    Raises QualaError for a label that is not in the training split.
    """
    if not isinstance(task, Classes):
        values = _numbers(labels)
        if values is None:
            raise QualaError("The labels are numbers in train but strings in another split.")
        return [replace(example, label=value) for example, value in zip(examples, values)]
    index = {name: number for number, name in enumerate(task.names)}
    names = [_name(label) for label in labels]
    strange = sorted(set(names) - set(index))
    if strange:
        raise QualaError(
            f"Label `{strange[0]}` is not one of train's labels: {', '.join(task.names[:20])}."
        )
    return [replace(example, label=index[name]) for example, name in zip(examples, names)]


def _numbers(labels: Sequence[Any]) -> list[float] | None:
    try:
        return [float(label) for label in labels]
    except ValueError:
        return None


def _name(label: Any) -> str:
    if isinstance(label, str):
        return label
    return str(int(label)) if label == int(label) else str(label)


_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text_a", "text_b"),
)
_SINGLES = ("sentence", "text")
_LABELS = ("label", "labels", "score")


def read_squad(spec: DataSpec, split: str) -> list[QAExample]:
    """Read the questions of a split with their answers.

    Raises QualaError when the split is absent, malformed or empty and, with the place of the row,
    for missing or mistyped columns, repeated ids, answers that are not at `answer_start`, and
    (unless `unanswerable` is "drop") questions without an answer.
    """
    examples: list[QAExample] = []
    seen: set[str] = set()
    for number, (place, row) in enumerate(split_rows(spec, split)):
        example = _qa_example(row, place, number=number)
        if example.id in seen:
            raise QualaError(f"{place} repeats the question id `{example.id}`.")
        seen.add(example.id)
        if example.answers:
            examples.append(example)
        elif spec.unanswerable == "refuse":
            raise QualaError(
                f"{place}: question `{example.id}` has no answer, which SQuAD 1.1 does not know; "
                "`unanswerable: drop` leaves such questions out."
            )
    if not examples:
        raise QualaError(f"The split `{split}` of `{spec.path or spec.name}` has no questions.")
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


def read_glue(
    spec: DataSpec, split: str, *, task: Task | None = None
) -> tuple[list[ClassificationExample], Task]:
    """Read the labeled sentences of a split; without `task` its labels define the task.

    Raises QualaError when the split is absent, malformed or empty and, with the place of the row,
    for missing columns and missing labels.
    """
    examples: list[ClassificationExample] = []
    labels: list[Any] = []
    columns: tuple[str, ...] = ()
    for number, (place, row) in enumerate(split_rows(spec, split)):
        columns = columns or _text_columns(row, place)
        texts = [_string(row, column, place) for column in columns]
        examples.append(
            ClassificationExample(
                id=str(number), text=texts[0], text_pair=texts[1] if len(texts) > 1 else None
            )
        )
        labels.append(_label(row, place))
    if task is None:
        task = labeled_task(labels, spec.subset)
    return with_labels(examples, labels, task=task), task


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
            f"{place} has no label (got {label!r}): this is an unlabeled split, which cannot be "
            "scored; choose a labeled one with `test_split`."
        )
    if not isinstance(label, (int, float, str)):
        raise QualaError(f"{place}: `{column}` must be a number or a string, got {_kind(label)}.")
    return label


def _string(row: Row, column: str, place: Place) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        if value is None:
            raise QualaError(f"{place} has no `{column}`; it has {', '.join(map(str, row))}.")
        raise QualaError(f"{place}: `{column}` must be a string, got {_kind(value)}.")
    return value


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def split_rows(spec: DataSpec, split: str) -> Rows:
    """Return the rows of a split: from a file, a folder or the hub."""
    if spec.path is None:
        return _loaded(str(spec.name), spec.subset, split=split, revision=spec.revision)
    source = source_path(spec.path, spec.subset)
    if source.is_file():
        return read_rows(source)
    files = split_files(source, split)
    if not files and (names_splits(source) or not data_files(source)):
        raise missing_split(source, split)
    if files:
        return (row for file in files for row in read_rows(file))
    return _loaded(str(source), None, split=split, revision=None)


def is_single_file(spec: DataSpec) -> bool:
    """Return whether the source is one file, which has no splits."""
    return spec.path is not None and source_path(spec.path, spec.subset).is_file()


def source_files(spec: DataSpec) -> list[Path]:
    """Return the local files that hold both splits, in a fixed order; none for the hub."""
    if spec.path is None:
        return []
    source = source_path(spec.path, spec.subset)
    if source.is_file():
        return [source]
    named = [split_files(source, split) for split in (spec.train_split, spec.test_split)]
    return [*named[0], *named[1]] if all(named) else data_files(source)


def _loaded(name: str, subset: str | None, *, split: str, revision: str | None) -> Rows:
    # `datasets` takes seconds to import, and local files do not need it.
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        rows: Any = load_dataset(name, subset, split=split, revision=revision)
    except (OSError, ValueError, DatasetGenerationError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise QualaError(f"The split `{split}` of `{name}` does not load: {reason}.") from error
    source = f"{name} {split}"
    return ((Place(source, "record", number), row) for number, row in enumerate(rows, start=1))
