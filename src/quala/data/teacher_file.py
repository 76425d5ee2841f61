"""Files in which a teacher's answers lie: characters, the n-best lists of run_squad, classes."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quala.data.characters import NO_ANSWER, CharacterAnswers, Floats, log_softmax
from quala.data.features import Example, QAExample
from quala.durable import replacing
from quala.errors import QualaError, quoted, unknown
from quala.stored import check_size, read_json

ENDINGS = (".npz", ".parquet", ".json", ".jsonl")
WRITTEN = {"answers": (".npz", ".parquet"), "classes": (".npz", ".parquet", ".jsonl")}
"""Endings of the files that are written, by what they hold."""
LARGEST = 2**33
"""Bytes. 87,599 questions with 16 characters each take 12 MB."""
VALUE = "value"
"""The label of a regression's one output."""
SLACK = 0.02
"""By how much probabilities in a file may miss 1: they may be float16."""


@dataclass(frozen=True, eq=False)
class ClassAnswers:
    """Probabilities of E texts, or values of a regression."""

    probability: Floats  # (E, C)
    labels: tuple[str, ...]
    """Of the columns; none if they have no names."""


@dataclass(frozen=True, eq=False)
class TeacherFile:
    """What a file says, by example id."""

    place: str
    rows: Mapping[str, int]
    content: CharacterAnswers | ClassAnswers | tuple[Any, ...]
    """Answers, classes, or the n-best lists, whose texts are looked for in the contexts."""

    @property
    def holds(self) -> str:
        """`classes`, or `answers` to questions."""
        return "classes" if isinstance(self.content, ClassAnswers) else "answers"

    @property
    def null(self) -> bool:
        """Whether any question has "no answer" among its answers."""
        if isinstance(self.content, tuple):
            return any(not text for answers in self.content for text, _ in answers)
        return isinstance(self.content, CharacterAnswers) and bool(
            (self.content.character == NO_ANSWER).any()
        )

    def missing(self, examples: Sequence[Example]) -> list[str]:
        """Return the ids that the file lacks."""
        return [one.id for one in examples if one.id not in self.rows]

    def answers(self, examples: Sequence[QAExample]) -> CharacterAnswers:
        """Return the answers to questions; one that the file lacks has fill only."""
        if isinstance(self.content, ClassAnswers):
            raise QualaError(f"`{self.place}` holds classes of texts, not answers to questions.")
        if isinstance(self.content, tuple):
            found = [self.rows.get(one.id) for one in examples]
            lists = [() if row is None else self.content[row] for row in found]
            return _located(examples, lists)
        rows = np.array([self.rows.get(one.id, -1) for one in examples], dtype=np.int64)
        kept = self.content
        scores = np.array(kept.log_probability[rows], dtype=np.float32)
        scores[rows < 0] = -np.inf
        return CharacterAnswers(kept.character[rows], scores, kept.span_logit[rows])

    def classes(self, examples: Sequence[Example]) -> Floats:
        """Return the probabilities (E, C) of texts; nan for one that the file lacks."""
        if not isinstance(self.content, ClassAnswers):
            raise QualaError(f"`{self.place}` holds answers to questions, not classes of texts.")
        rows = np.array([self.rows.get(one.id, -1) for one in examples], dtype=np.int64)
        found = np.array(self.content.probability[rows], dtype=np.float64)
        found[rows < 0] = np.nan
        return found


def _located(
    examples: Sequence[QAExample], lists: Sequence[Sequence[tuple[str, float]]]
) -> CharacterAnswers:
    """Return texts with their probabilities as characters of the contexts.

    A text that stands in its context several times has its probability divided evenly among
    these places, because a list does not say which one is meant. One that is not found is left
    out, and an empty one is "no answer".
    """
    found: list[list[tuple[int, int, float]]] = []
    for example, entries in zip(examples, lists, strict=True):
        places: list[tuple[int, int, float]] = []
        for text, probability in entries:
            starts = _occurrences(example.context, text) if text else [NO_ANSWER]
            share = probability / len(starts) if starts else 0.0
            places += [(at, at + len(text) if text else NO_ANSWER, share) for at in starts]
        found.append([one for one in places if one[2] > 0])
    most = max((len(one) for one in found), default=1) or 1
    character = np.zeros((len(found), 2, most), np.int32)
    scores = np.full((len(found), 2, most), -np.inf, np.float32)
    for row, places in enumerate(found):
        for column, (start, end, probability) in enumerate(places):
            character[row, :, column] = start, end
            scores[row, :, column] = np.log(probability)
    return CharacterAnswers(character, scores, np.full(len(found), np.nan, np.float32))


def _occurrences(context: str, text: str) -> list[int]:
    found, at = [], context.find(text)
    while at >= 0:
        found.append(at)
        at = context.find(text, at + 1)
    return found


def is_teacher_file(place: str | Path) -> bool:
    """Tell whether a place is named as a teacher's file is, and is no folder."""
    return Path(place).suffix.lower() in ENDINGS and not Path(place).expanduser().is_dir()


def check_teacher_file(file: Path) -> None:
    """Raise QualaError, before any work, for a file that is lost, cut off or of another kind."""
    if not file.is_file():
        raise QualaError(f"There is no teacher's file at `{quoted(str(file))}`.")
    suffix = file.suffix.lower()
    if suffix == ".npz":
        good = zipfile.is_zipfile(file)  # its directory is at the end
    else:
        with file.open("rb") as stream:
            start = stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
            stream.seek(-min(4, file.stat().st_size), os.SEEK_END)
            end = stream.read()
        good = start[:4] == end == b"PAR1" if suffix == ".parquet" else start[:1] == b"{"
    if not good:
        raise QualaError(f"`{file}` is damaged, or is no {suffix} file of a teacher's answers.")


def read_teacher_file(file: Path) -> TeacherFile:
    """Read answers by characters, n-best lists or classes; the content says which.

    Raises QualaError, one sentence, for files that are none of these. No code in them is run.
    """
    suffix = file.suffix.lower()
    if suffix not in ENDINGS:
        raise unknown("ending of a teacher's file", suffix or file.name, ENDINGS)
    check_teacher_file(file)
    if suffix == ".json":
        return _nbest(file)
    columns = _npz(file) if suffix == ".npz" else _table(file)
    if "id" not in columns:
        raise QualaError(
            f"`{file}` has no `id`; it has {', '.join(columns) or 'nothing'}: a teacher's file "
            "has `id` with `character` and `log_probability`, or with `probabilities`."
        )
    ids = _ids(file, columns["id"].tolist())
    if "character" in columns:
        return TeacherFile(str(file), ids, _answers(file, columns, len(ids)))
    return TeacherFile(str(file), ids, _classes(file, columns, len(ids)))


def _ids(file: Path, values: Sequence[Any]) -> dict[str, int]:
    ids = {str(one): number for number, one in enumerate(values)}
    if len(ids) < len(values):
        twice = next(str(one) for row, one in enumerate(values) if ids[str(one)] != row)
        raise QualaError(f"`{file}` has the id `{twice}` twice.")
    return ids


def _npz(file: Path) -> dict[str, NDArray[Any]]:
    try:
        check_size(file, LARGEST)
        with zipfile.ZipFile(file) as packed:
            size = sum(one.file_size for one in packed.infolist())
        if size > LARGEST:
            raise QualaError(f"`{file}` has {size:,} bytes unpacked, at most {LARGEST:,}.")
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise QualaError(f"`{file}` is not a readable npz file: {reason}.") from error


def _table(file: Path) -> dict[str, NDArray[Any]]:
    """Return the columns of a parquet or JSON-lines file, nested lists as arrays."""
    from quala.data.files import read_rows  # pyarrow takes long to import

    rows = [row for _, row in read_rows(file)]
    names = list(rows[0])
    for number, row in enumerate(rows, start=1):
        if set(row) != set(names):
            raise QualaError(
                f"`{file}`, row {number} has the columns {', '.join(row)}, the first row "
                f"{', '.join(names)}: all must have the same."
            )
    columns: dict[str, NDArray[Any]] = {}
    for name in names:
        values = [row[name] for row in rows]
        if name == "probabilities" and isinstance(values[0], Mapping):
            labels = list(values[0])
            values = [[row.get(label) for label in labels] for row in values]
            columns["labels"] = np.array(labels)
        elif name == "labels":
            if any(one != values[0] for one in values):
                raise QualaError(f"`{file}` has other `labels` in each row: all must be the same.")
            values = values[0]
        try:
            columns[name] = np.array([str(one) for one in values] if name == "id" else values)
        except ValueError as error:
            raise QualaError(f"`{file}`: the lists in `{name}` must be of one length.") from error
    return columns


def _numbers(file: Path, name: str, values: NDArray[Any], shape: str, good: bool) -> Floats:
    if not good or values.dtype.kind not in "fiu":
        got = "x".join(map(str, values.shape))
        raise QualaError(f"`{file}`: `{name}` must be numbers {shape}, got {got} {values.dtype}.")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise QualaError(f"`{file}`: `{name}` has values that are no numbers.")
    return values


def _answers(file: Path, columns: Mapping[str, NDArray[Any]], count: int) -> CharacterAnswers:
    places = columns["character"]
    if "log_probability" not in columns:
        raise QualaError(f"`{file}` has `character` without `log_probability`.")
    scores = columns["log_probability"]
    good = places.ndim == 3 and places.shape[:2] == (count, 2) and places.shape[2] > 0
    _numbers(file, "character", places, f"({count}, 2, K)", good and places.dtype.kind in "iu")
    _numbers(file, "log_probability", scores, f"{places.shape}", scores.shape == places.shape)
    scores = scores.astype(np.float32)
    total = np.exp(scores).sum(axis=2)
    if (total > 1 + SLACK).any():
        raise QualaError(
            f"`{file}`: the probabilities of an answer add up to {total.max():.3g}, at most 1: "
            "`log_probability` has natural logarithms."
        )
    sure = columns.get("span_logit", np.full(count, np.nan))
    _numbers(file, "span_logit", sure[:0], f"({count},)", sure.shape == (count,))
    return CharacterAnswers(places.astype(np.int32), scores, sure.astype(np.float32))


def _classes(file: Path, columns: Mapping[str, NDArray[Any]], count: int) -> ClassAnswers:
    if "probabilities" in columns:
        values = columns["probabilities"]
        labels = tuple(map(str, columns.get("labels", np.array([])).tolist()))
    else:
        labels = tuple(name for name in columns if name != "id")
        if not labels:
            raise QualaError(f"`{file}` has `id` only: `probabilities`, or labels, are missing.")
        values = np.stack([columns[name] for name in labels], axis=-1)
    _numbers(file, "probabilities", values, f"({count}, classes)", values.shape[:-1] == (count,))
    if labels and (len(labels) != values.shape[1] or len(set(labels)) < len(labels)):
        raise QualaError(
            f"`{file}`: `labels` must be {values.shape[1]} different names, got "
            f"{', '.join(labels)}."
        )
    values = values.astype(np.float64)
    if labels != (VALUE,):
        wrong = (values < 0).any(axis=1) | (abs(values.sum(axis=1) - 1) > SLACK)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise QualaError(
                f"`{file}`, row {row + 1}: probabilities must be 0 to 1 and add up to 1, got "
                f"{', '.join(f'{one:.4g}' for one in values[row][:6])}."
            )
    elif not np.isfinite(values).all():
        raise QualaError(f"`{file}`: `{VALUE}` must be finite.")
    return ClassAnswers(values, labels)


def _nbest(file: Path) -> TeacherFile:
    """Read `nbest_predictions.json` of run_squad: {id: [{text, probability or logits}]}."""
    content = read_json(file, largest=LARGEST)
    if not isinstance(content, dict) or not content:
        raise QualaError(
            f"`{file}` must be run_squad's {{id: [answers]}}, got another JSON value."
        )
    lists = [_entries(file, name, entries) for name, entries in content.items()]
    return TeacherFile(str(file), {name: row for row, name in enumerate(content)}, tuple(lists))


def _entries(file: Path, name: str, entries: Any) -> list[tuple[str, float]]:
    try:
        texts = [str(one["text"]) for one in entries]
        if all("probability" in one for one in entries):
            weights = np.array([float(one["probability"]) for one in entries])
        else:
            logits = [float(one["start_logit"]) + float(one["end_logit"]) for one in entries]
            weights = np.exp(log_softmax(np.array(logits)))
    except (TypeError, KeyError, ValueError) as error:
        raise QualaError(
            f"`{file}`: the answers to `{name}` must be a list of objects with `text` and "
            "`probability`, or `start_logit` and `end_logit`."
        ) from error
    if not texts or not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum():
        raise QualaError(f"`{file}`: the answers to `{name}` have no probabilities of 0 to 1.")
    return list(zip(texts, (weights / weights.sum()).tolist(), strict=True))


def write_teacher_file(
    file: Path, ids: Sequence[str], content: CharacterAnswers | ClassAnswers
) -> None:
    """Write what `read_teacher_file` reads; the ending says in which form.

    Raises QualaError for an ending that this content cannot have.
    """
    suffix = file.suffix.lower()
    allowed = WRITTEN["classes" if isinstance(content, ClassAnswers) else "answers"]
    if suffix not in allowed:
        raise unknown("ending of `--out`", suffix or file.name, allowed)
    if isinstance(content, ClassAnswers):
        columns: dict[str, Any] = {"probabilities": content.probability.astype(np.float32)}
    else:
        columns = {
            "character": content.character.astype(np.int32),
            "log_probability": content.log_probability.astype(np.float16),
            "span_logit": content.span_logit.astype(np.float32),
        }
    labels = _column_names(content)
    with replacing(file) as partial:
        if suffix == ".npz":
            columns |= {"id": np.array(ids), **({"labels": np.array(labels)} if labels else {})}
            with partial.open("wb") as stream:
                np.savez_compressed(stream, **columns)
            return
        if labels:
            table = columns.pop("probabilities")
            columns = {name: table[:, place] for place, name in enumerate(labels)}
        _write_table(partial, suffix, {"id": list(ids), **columns})


def _column_names(content: CharacterAnswers | ClassAnswers) -> tuple[str, ...]:
    """Return the labels where each may name a column."""
    labels = content.labels if isinstance(content, ClassAnswers) else ()
    return labels if not {"id", "probabilities", "labels"} & set(labels) else ()


def _write_table(file: Path, suffix: str, columns: Mapping[str, Any]) -> None:
    import json

    import pyarrow as pa
    from pyarrow import parquet

    lists = {
        name: values if isinstance(values, list) or values.ndim == 1 else values.tolist()
        for name, values in columns.items()
    }
    if suffix == ".parquet":
        parquet.write_table(pa.table(lists), file)
        return
    plain = {
        name: values if isinstance(values, list) else values.tolist()
        for name, values in lists.items()
    }
    with file.open("w", encoding="utf-8") as stream:
        for row in zip(*plain.values(), strict=True):
            stream.write(json.dumps(dict(zip(plain, row, strict=True)), ensure_ascii=False) + "\n")
