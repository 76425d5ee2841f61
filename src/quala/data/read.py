"""Rows of a data set to examples."""

from __future__ import annotations

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
from quala.data.labels import Label, label_examples, label_of
from quala.data.spec import DataSpec
from quala.data.task import Task
from quala.errors import QualaError

_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text_a", "text_b"),
)
_SINGLES = ("sentence", "text")


def read_squad(
    spec: DataSpec, split: str, *, left_out: dict[str, int] | None = None
) -> list[QAExample]:
    """Read the questions of a split with their answers; `left_out` counts those it drops.

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
    if left_out is not None and len(seen) > len(examples):
        left_out[f"{split}: questions without an answer"] = len(seen) - len(examples)
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
    spec: DataSpec,
    split: str,
    *,
    task: Task | None = None,
    left_out: dict[str, int] | None = None,
) -> tuple[list[ClassificationExample], Task]:
    """Read the labeled sentences of a split; without `task` its labels define the task.

    `left_out` counts the rows that it drops.

    Raises QualaError when the split is absent, malformed or empty and, with the place of the row,
    for missing columns and (unless `unlabeled` is "drop") missing labels.
    """
    examples: list[ClassificationExample] = []
    labels: list[Label] = []
    columns: tuple[str, ...] = ()
    for number, (place, row) in enumerate(split_rows(spec, split)):
        columns = columns or _text_columns(row, place)
        texts = [_string(row, column, place) for column in columns]
        examples.append(
            ClassificationExample(
                id=str(number), text=texts[0], text_pair=texts[1] if len(texts) > 1 else None
            )
        )
        labels.append(label_of(row, place))
    kept, task = label_examples(examples, labels, spec, split=split, task=task)
    if left_out is not None and len(examples) > len(kept):
        left_out[f"{split}: rows without a label"] = len(examples) - len(kept)
    return kept, task


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


def split_sources(spec: DataSpec) -> dict[str, list[str]]:
    """Return the files of train and test, or the name of the hub's data set with its split."""
    splits = {"train": spec.train_split, "test": spec.test_split}
    if spec.path is None:
        parts = [part for part in (spec.name, spec.subset, spec.revision) if part]
        return {name: [" ".join([*parts, split])] for name, split in splits.items()}
    source = source_path(spec.path, spec.subset)
    if source.is_file():
        return {name: [str(source)] for name in splits}
    return {name: [*map(str, split_files(source, split))] for name, split in splits.items()}


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
