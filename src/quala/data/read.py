"""Rows of a data set to examples."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from quala.data.features import ClassificationExample, Example, QAExample
from quala.data.files import IMPOSSIBLE, Place, Row, Rows, read_rows, suffix_of
from quala.data.labels import LABEL_COLUMNS, Label, label_examples, label_of
from quala.data.spec import DataSpec
from quala.data.splits import source_path, split_files
from quala.data.task import Task
from quala.errors import QualaError, unknown
from quala.metrics.ranking import RANKING_METRICS
from quala.plugins import FORMATS
from quala.reading import expanded

log = logging.getLogger(__name__)

PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text_a", "text_b"),
    ("#1 String", "#2 String"),
)
SINGLES = ("sentence", "text")
_INVISIBLE = re.compile("[\\s\\xad\u200b-\u200f\u2060-\u2064\ufeff]+")
# Thai, Lao, Khmer and Burmese letters, kana, and Chinese characters.
_WITHOUT_BLANKS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def read_squad(
    spec: DataSpec,
    split: str,
    *,
    offsets: bool = True,
    left_out: dict[str, int] | None = None,
) -> list[QAExample]:
    """Read the questions of a split with their answers, without `offsets` the texts only.

    `left_out` counts the questions that it drops.

    Raises QualaError when the split is absent, malformed or empty and, with the place of the row,
    for missing or mistyped columns, repeated ids, answers that are blank or not at `answer_start`
    (unless `misaligned` is "drop"), questions that are blank (unless `unanswerable` is "drop") or
    without an answer (unless it is "drop" or "keep"), and under "keep" questions whose
    `is_impossible` is contradicted by their answers.
    """
    examples: list[QAExample] = []
    seen: set[str] = set()
    unanswerable = blank = 0
    misaligned: list[str] = []
    for number, (place, row) in enumerate(split_rows(spec, split)):
        example = _qa_example(row, place, number=number, offsets=offsets)
        if spec.unanswerable == "keep":
            _check_answerable(row, place, example)
        if example.id in seen:
            raise QualaError(f"{place} repeats the question id `{example.id}`.")
        seen.add(example.id)
        astray = _astray(example)
        if offsets and is_blank(example.question):
            blank += 1
            if spec.unanswerable != "drop":
                raise QualaError(
                    f"{place}: question `{example.id}` has no text; `data.unanswerable=drop` "
                    "leaves such questions out."
                )
        elif not example.answers and spec.unanswerable != "keep":
            unanswerable += 1
            if spec.unanswerable == "refuse":
                raise QualaError(
                    f"{place}: question `{example.id}` has no answer, which SQuAD 1.1 does not "
                    "know; `data.unanswerable=drop` leaves such questions out, "
                    "`data.unanswerable=keep` trains and scores them as SQuAD 2.0."
                )
        elif astray is None:
            examples.append(example)
        elif spec.misaligned == "refuse":
            raise QualaError(
                f"{place}: {astray}; `data.misaligned=drop` leaves such questions out."
            )
        else:
            misaligned.append(f"{place} (question `{example.id}`): {astray}")
    if misaligned:
        text = "; ".join(misaligned[:20]) + ("; and others" if len(misaligned) > 20 else "")
        log.warning(
            "`%s`: %d misaligned questions are left out: %s.", split, len(misaligned), text
        )
    dropped = {
        "without an answer": unanswerable,
        "without a text": blank,
        "misaligned": len(misaligned),
    }
    if left_out is not None:
        left_out.update(
            {f"{split}: questions {reason}": count for reason, count in dropped.items() if count}
        )
    if not examples:
        raise QualaError(f"The split `{split}` of `{spec.path or spec.name}` has no questions.")
    return examples


def knows_unanswerable(spec: DataSpec, split: str, examples: Sequence[QAExample]) -> bool:
    """Return whether data are as SQuAD 2.0: a question has no answer or says whether it has one.

    `examples` are those of the split, read with `unanswerable` "keep".
    """
    if not all(example.answers for example in examples):
        return True
    return any(IMPOSSIBLE in row for _, row in islice(split_rows(spec, split), 1))


def _check_answerable(row: Row, place: Place, example: QAExample) -> None:
    """Raise QualaError where `is_impossible` says something else than the answers."""
    answers, impossible = row["answers"], row.get(IMPOSSIBLE)
    each = answers["text"] if isinstance(answers, dict) else [one["text"] for one in answers]
    if impossible is not None and impossible == any(each):
        raise QualaError(
            f"{place}: question `{example.id}` has {'answers' if any(each) else 'no answer'}, and "
            f"`{IMPOSSIBLE}` is {str(impossible).lower()}."
        )


def _astray(example: QAExample) -> str | None:
    """Say which answer does not stand where it should; without offsets none does."""
    for text, start in zip(example.answers, example.answer_starts):
        if is_blank(text) or example.context[start : start + len(text)] != text:
            return f"the answer `{text[:40]}` does not stand at answer_start {start}"
    return None


def is_blank(text: str) -> bool:
    """Return whether a text has no visible character."""
    return not text.strip() or not _INVISIBLE.sub("", text)


def remarks(examples: Sequence[Example], split: str) -> list[str]:
    """Return what a reader of scores has to know of the texts of a split, one sentence each.

    Raises QualaError where no row has a text.
    """
    found = []
    asked = [one for one in examples if isinstance(one, QAExample)]
    answers = [text for one in asked for text in one.answers]
    if 2 * sum(bool(_WITHOUT_BLANKS.search(text)) for text in answers) > max(1, len(answers)):
        found.append(
            f"The answers of `{split}` are mostly without blanks between words (Chinese, "
            "Japanese, Thai): SQuAD's F1 counts each as one word."
        )
    rows = [one for one in examples if isinstance(one, ClassificationExample)]
    blank = [one.id for one in rows if is_blank(one.text) or is_blank(one.text_pair or ".")]
    if blank:
        if len(blank) == len(rows):
            raise QualaError(
                f"No row of `{split}` has a text; `data.columns.text` names its column."
            )
        found.append(
            f"{len(blank)} of {len(rows)} rows of `{split}` have an empty text (first: row "
            f"{int(blank[0]) + 1 if blank[0].isdecimal() else blank[0]})."
        )
    return found


def _qa_example(row: Row, place: Place, *, number: int, offsets: bool) -> QAExample:
    texts, starts = answers_of(row, place, offsets=offsets)
    identity = row.get("id")
    if isinstance(identity, bool) or not isinstance(identity, str | int | float | None):
        raise QualaError(
            f"{place}: `id` must be a string or a number, got {type(identity).__name__}."
        )
    return QAExample(
        id=str(number) if identity is None else str(identity),
        title=_string(row, "title", place) if row.get("title") is not None else "",
        context=_string(row, "context", place),
        question=_string(row, "question", place),
        answers=texts,
        answer_starts=starts,
    )


def answers_of(
    row: Row, place: Place, *, offsets: bool
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the answers and their starts, both empty for an unanswerable question.

    Raises QualaError for what is malformed; without `offsets` starts are neither read nor given.
    """
    answers = row.get("answers")
    if isinstance(answers, list) and all(isinstance(one, dict) for one in answers):
        answers = {key: [one.get(key) for one in answers] for key in ("text", "answer_start")}
    wanted = ("text", "answer_start") if offsets else ("text",)
    if not isinstance(answers, dict) or not set(wanted) <= set(answers):
        raise QualaError(
            f"{place}: `answers` must hold {' and '.join(f'`{key}`' for key in wanted)}, "
            f"got {_kind(answers)}."
        )
    texts = answers["text"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise QualaError(f"{place}: every answer's `text` must be a string.")
    impossible = row.get(IMPOSSIBLE)
    if impossible not in (True, False, None):
        raise QualaError(f"{place}: `{IMPOSSIBLE}` must be true or false, got `{impossible}`.")
    if impossible or not any(texts):
        return (), ()
    if not offsets:
        return tuple(text for text in texts if text), ()
    starts = answers["answer_start"]
    if not isinstance(starts, list) or len(texts) != len(starts):
        raise QualaError(f"{place}: `text` and `answer_start` must be lists of equal length.")
    if not all(type(start) is int and start >= 0 for start in starts):  # True is no place
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
        columns = columns or _text_columns(row, place, spec.columns)
        texts = [_string(row, column, place) for column in columns]
        pair = texts[1] if len(texts) > 1 else None
        group = _group(row, place, spec, texts[0])
        examples.append(ClassificationExample(str(number), texts[0], pair, group=group))
        labels.append(label_of(row, place))
    kept, task = label_examples(examples, labels, spec, split=split, task=task)
    if left_out is not None and len(examples) > len(kept):
        left_out[f"{split}: rows without a label"] = len(examples) - len(kept)
    return kept, task


def _group(row: Row, place: Place, spec: DataSpec, text: str) -> str | None:
    """Return the query of a row where rankings are scored: its group, else its first text."""
    if spec.group is None:
        return text if spec.metric in RANKING_METRICS else None
    if spec.group not in row:
        raise unknown(f"column of {place} in `data.group`", spec.group, row)
    return str(row[spec.group])


def class_names(file: Path) -> dict[str, tuple[str, ...]]:
    """Return the names of the numbers in each column for which the hub's parquet has names."""
    import pyarrow.parquet as pq

    stored = pq.read_schema(file).metadata if file.suffix.lower() == ".parquet" else None
    try:
        kinds = json.loads((stored or {})[b"huggingface"])["info"]["features"].items()
        inner = [(name, kind.get("feature", kind)) for name, kind in kinds]  # of a list
        return {name: tuple(kind["names"]) for name, kind in inner if "names" in kind}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):  # of another writer
        return {}


def numbered_names(
    spec: DataSpec, *, column: str = "label", usual: Sequence[str] = LABEL_COLUMNS
) -> tuple[str, ...]:
    """Return the names that a source has for its labels 0, 1, ..., in parquet or on the hub.

    They are in the `column`, which `data.columns` may map, or in one of the `usual` ones.
    """
    mapped = spec.columns.get(column)
    if spec.path is None:
        kinds = _hub(spec, spec.train_split).features
        inner = {name: getattr(kind, "feature", kind) for name, kind in kinds.items()}
        names = {name: tuple(getattr(kind, "names", ())) for name, kind in inner.items()}
    else:
        names = class_names(_files(spec, spec.train_split)[0])
    columns = (mapped,) if mapped else usual
    return next((names[column] for column in columns if column in names), ())


def _text_columns(row: Row, place: Place, mapped: Mapping[str, str | None]) -> tuple[str, ...]:
    if mapped.keys() & {"text", "text_pair"}:
        return ("text", "text_pair") if "text_pair" in mapped else ("text",)
    for pair in PAIRS:
        if set(pair) <= set(row):
            return pair
    for single in SINGLES:
        if single in row:
            return (single,)
    wanted = ", ".join([*SINGLES, *("+".join(pair) for pair in PAIRS)])
    raise QualaError(
        f"{place} has no text column: expected one of {wanted}, got {', '.join(row)}; "
        "`data.columns.text` names another, `data.header=false` is for a file without a header."
    )


def _string(row: Row, column: str, place: Place) -> str:
    if column not in row:
        raise QualaError(f"{place} has no `{column}`; it has {', '.join(map(str, row))}.")
    if not isinstance(row[column], str):
        raise QualaError(f"{place}: `{column}` must be a string, got {_kind(row[column])}.")
    return str(row[column])


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def split_rows(spec: DataSpec, split: str) -> Rows:
    """Return the rows of a split, from files or the hub, with the names that `columns` gives.

    Raises QualaError for what cannot be read, and for a row without a column of `columns`.
    """
    for place, row in _rows(spec, split):
        named: dict[str, Any] = dict(row)
        for name, column in spec.columns.items():
            if column not in row:
                raise unknown(f"column of {place} in `data.columns.{name}`", column, row)
            named[name] = row[str(column)]
        yield place, named


def _rows(spec: DataSpec, split: str) -> Rows:
    if spec.path is None:
        for number, row in enumerate(_hub(spec, split), start=1):
            yield Place(f"{spec.name} {split}", "record", number), row
    own = FORMATS.find(spec.task)
    for file in _files(spec, split):
        if suffix_of(file) in own.suffixes:
            yield from own.own_rows(file)
        else:
            yield from read_rows(file, header=spec.header, quoting=spec.quoting)


def _source(spec: DataSpec) -> Path:
    return source_path(str(spec.path), spec.subset, FORMATS.find(spec.task).subsets)


def _files(spec: DataSpec, split: str) -> list[Path]:
    if spec.path is None:
        return []
    source = _source(spec)
    if source.is_file():
        return [source]
    option = "data.train_split" if split == spec.train_split else "data.test_split"
    return split_files(source, split, option=option, more=FORMATS.find(spec.task).suffixes)


def is_single_file(spec: DataSpec) -> bool:
    """Return whether the source is one file, which has no splits."""
    return spec.path is not None and _source(spec).is_file()


def source_files(spec: DataSpec) -> dict[str, list[Path]]:
    """Return the local files that are read as `train` and as `test`; none for the hub.

    A single file is both. Raises QualaError where a split has no files, or both have the same.
    """
    files = {
        "train": _files(spec, spec.train_split),
        "test": _files(spec, spec.test_split),
    }
    both = set(files["train"]) & set(files["test"])
    if both and not is_single_file(spec):
        raise QualaError(
            f"`data.train_split` {spec.train_split} and `data.test_split` {spec.test_split} are "
            f"one file, `{min(both)}`."
        )
    return files


def split_sources(spec: DataSpec) -> dict[str, list[str]]:
    """Return what is read as `train` and as `test`, for people.

    Files are named relative to `path`, a split on the hub as `name@revision split`.
    """
    if spec.path is None:
        name = f"{spec.name}@{spec.revision}" if spec.revision else str(spec.name)
        source = f"{name} {spec.subset}" if spec.subset else name
        return {"train": [f"{source} {spec.train_split}"], "test": [f"{source} {spec.test_split}"]}
    path = expanded(spec.path)
    base = path.parent if path.is_file() else path
    return {
        part: [Path(os.path.relpath(file, base)).as_posix() for file in files]
        for part, files in source_files(spec).items()
    }


def _hub(spec: DataSpec, split: str) -> Any:
    # `datasets` takes seconds to import, and local files do not need it.
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        return load_dataset(str(spec.name), spec.subset, split=split, revision=spec.revision)
    except (OSError, ValueError, DatasetGenerationError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise QualaError(f"Split `{split}` of `{spec.name}` does not load: {reason}.") from error
