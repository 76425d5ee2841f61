"""Rows of a data file of any format, each with its place in the file."""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from quala.errors import QualaError, unknown

Row = Mapping[str, Any]


class Place(NamedTuple):
    """The place of a row, for error messages."""

    file: str
    unit: str
    number: int

    def __str__(self) -> str:
        return f"`{self.file}`, {self.unit} {self.number}"


Rows = Iterator[tuple[Place, Row]]


def read_rows(file: Path) -> Rows:
    """Yield the rows of a parquet, JSON, JSON-lines, TSV or CSV file.

    Raises QualaError for empty, truncated or malformed files, with the file and the line.
    """
    if file.suffix not in _READERS:
        raise unknown("data file format", file.suffix or file.name, SUFFIXES)
    empty = True
    for row in _READERS[file.suffix](file):
        empty = False
        yield row
    if empty:
        raise QualaError(f"`{file}` holds no rows.")


def _parquet(file: Path) -> Rows:
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise QualaError(f"`{file}` is not a readable parquet file: {_line(error)}.") from error
    number = 0
    for piece in table.to_batches(max_chunksize=4096):
        for row in piece.to_pylist():
            number += 1
            yield Place(str(file), "record", number), row


def _json(file: Path) -> Rows:
    text = _text(file)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and error.lineno > 1:
            yield from _json_lines(file)
            return
        raise QualaError(
            f"`{file}`, line {error.lineno} is not valid JSON: {error.msg}; is the file complete?"
        ) from error
    if isinstance(content, dict) and "data" in content:
        yield from _articles(content["data"], file)
    elif isinstance(content, dict) and "question" not in content and "label" not in content:
        raise QualaError(
            f"`{file}` must hold a list of records or SQuAD's `data`, "
            f"got the keys {', '.join(map(str, content)) or 'none'}."
        )
    else:
        for number, row in enumerate(content if isinstance(content, list) else [content], start=1):
            place = Place(str(file), "record", number)
            yield place, _mapping(row, place)


def _articles(articles: object, file: Path) -> Rows:
    """Flatten SQuAD's articles > paragraphs > questions to the hub's columns."""
    number = 0
    place = Place(str(file), "article", 0)
    for index, article in enumerate(_list(articles, "data", place), start=1):
        place = Place(str(file), "article", index)
        for paragraph in _list(_key(article, "paragraphs", place), "paragraphs", place):
            context = _key(paragraph, "context", place)
            for question in _list(_key(paragraph, "qas", place), "qas", place):
                number += 1
                at = Place(str(file), "question", number)
                yield at, _flat(_mapping(question, at), article, context=context, place=at)


def _flat(question: Row, article: Row, *, context: object, place: Place) -> Row:
    impossible = question.get("is_impossible", False)
    answers = [] if impossible else _list(question.get("answers", []), "answers", place)
    return {
        "id": question.get("id"),
        "title": article.get("title"),
        "context": context,
        "question": question.get("question"),
        "answers": {
            "text": [_key(answer, "text", place) for answer in answers],
            "answer_start": [_key(answer, "answer_start", place) for answer in answers],
        },
    }


def _json_lines(file: Path) -> Rows:
    for number, line in enumerate(_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        place = Place(str(file), "line", number)
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise QualaError(f"{place} is not valid JSON: {error.msg}.") from error
        yield place, _mapping(row, place)


def _delimited(file: Path) -> Rows:
    """Read TSV without quoting (GLUE's files hold stray quotes), CSV with it."""
    if file.suffix == ".tsv":
        lines = _text(file).rstrip("\n").split("\n")
        reader = csv.reader(lines, csv.excel_tab, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(_text(file).splitlines(keepends=True))
    try:
        header = next(reader, [])
        for cells in reader:
            place = Place(str(file), "line", reader.line_num)
            if not cells:
                continue
            if len(cells) != len(header):
                raise QualaError(f"{place} has {len(cells)} columns, the header {len(header)}.")
            yield place, dict(zip(header, cells))
    except csv.Error as error:
        raise QualaError(f"`{file}`, line {reader.line_num} is malformed: {error}.") from error


def _text(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise QualaError(f"`{file}` is not readable as UTF-8 text: {_line(error)}.") from error
    if not text.strip():
        raise QualaError(f"`{file}` is empty.")
    return text


def _mapping(row: object, place: Place) -> Row:
    if not isinstance(row, dict):
        raise QualaError(f"{place} must be an object, got {type(row).__name__}.")
    return row


def _key(row: object, key: str, place: Place) -> Any:
    mapping = _mapping(row, place)
    if key not in mapping:
        raise QualaError(f"{place} has no `{key}`; it has {', '.join(mapping) or 'nothing'}.")
    return mapping[key]


def _list(value: object, key: str, place: Place) -> list[Any]:
    if not isinstance(value, list):
        raise QualaError(f"{place}: `{key}` must be a list, got {type(value).__name__}.")
    return value


def _line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__


_READERS = {
    ".parquet": _parquet,
    ".jsonl": _json_lines,
    ".json": _json,
    ".tsv": _delimited,
    ".csv": _delimited,
}
SUFFIXES = tuple(_READERS)
"""In the order in which a folder with several formats is searched."""

_ALIASES = {
    "train": ("train", "training"),
    "validation": ("validation", "dev", "valid", "val"),
    "dev": ("dev", "validation", "valid", "val"),
    "test": ("test",),
}


def source_path(path: str, subset: str | None) -> Path:
    """Return the file or folder at `path`, or its sub-folder `subset` where there is one.

    Raises QualaError, which names the nearest path, when it does not exist.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise QualaError(f"`{place}` does not exist.{_nearest(place)}")
    if subset is not None and (place / subset).is_dir():
        return place / subset
    return place


def split_files(folder: Path, split: str) -> list[Path]:
    """Return the files of a split: `validation.parquet`, `dev-v1.1.json`, `data/train-00000.*`.

    Of several formats the first of parquet, jsonl, json, tsv, csv is taken; shards are sorted.
    The list is empty where no file is named for the split.
    """
    files = data_files(folder)
    for alias in _ALIASES.get(split, (split,)):
        shard = re.compile(rf"{re.escape(alias)}([-_.].*)?", re.IGNORECASE)
        named = [file for file in files if shard.fullmatch(file.stem)]
        exact = [file for file in named if file.stem.lower() == alias.lower()]
        for suffix in SUFFIXES:
            found = [file for file in exact or named if file.suffix == suffix]
            if found:
                return found[:1] if exact else found
    return []


def names_splits(folder: Path) -> bool:
    """Return whether any file of the folder is named for a usual split."""
    return any(split_files(folder, split) for split in _ALIASES)


def data_files(folder: Path) -> list[Path]:
    """Return the data files in a folder and its direct sub-folders, sorted."""
    files = (*folder.glob("*"), *folder.glob("*/*"))
    return sorted(file for file in files if file.suffix in SUFFIXES and file.is_file())


def missing_split(folder: Path, split: str) -> QualaError:
    """Return the error for a folder without the split; it lists the files that are there."""
    found = ", ".join(str(file.relative_to(folder)) for file in data_files(folder)[:8])
    return QualaError(
        f"`{folder}` has no `{split}` split: expected {split}.parquet, .jsonl, .json, .tsv "
        f"or .csv, found {found or 'no data files'}."
    )


def _nearest(place: Path) -> str:
    parent = place.parent
    if not parent.is_dir():
        return f" Neither does the folder `{parent}`."
    near = difflib.get_close_matches(place.name, [item.name for item in parent.iterdir()], n=1)
    return f" Did you mean `{parent / near[0]}`?" if near else ""
