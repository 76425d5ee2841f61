"""The rows of data files, each with its place."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from quala.errors import QualaError, unknown
from quala.reading import DEEPEST, MOST_BYTES, load_json, read_bytes, read_text

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

log = logging.getLogger(__name__)

Row = Mapping[str, Any]
MOST_ROWS = 10_000_000
"""Of one parquet file."""
IMPOSSIBLE = "is_impossible"
"""What SQuAD 2.0 calls a question without an answer."""


class Place(NamedTuple):
    """The place of a row, for error messages."""

    file: str
    unit: str
    number: int

    def __str__(self) -> str:
        return f"`{self.file}`, {self.unit} {self.number}"


Rows = Iterator[tuple[Place, Row]]


def read_rows(file: Path, *, header: bool = True, quoting: str = "detect") -> Rows:
    """Yield the rows of a parquet, JSON, JSON-lines, TSV or CSV file, or of one packed as .gz.

    `header` and `quoting`, as in `DataSpec`, are for TSV and CSV: without a header the columns are
    called 1, 2 and so on. Raises QualaError for empty, truncated or malformed files, with the file
    and the line.
    """
    suffix = suffix_of(file)
    if suffix not in SUFFIXES:
        raise unknown("data file format", suffix or file.name, SUFFIXES)
    if suffix in DELIMITERS:
        rows = _delimited(file, header=header, quoting=quoting)
    elif not header or quoting != "detect":
        raise QualaError(f"`header` and `quoting` are for TSV and CSV files, not for `{file}`.")
    else:
        rows = _READERS[suffix](file)
    row = None
    for row in rows:
        yield row
    if row is None:
        raise QualaError(f"`{file}` holds no rows.")


def suffix_of(file: Path) -> str:
    """Return the suffix of a file's format, packed or not: `.csv` of train.csv.gz."""
    return name_of(file)[1]


def name_of(file: Path) -> tuple[str, str]:
    """Return the name and the format of a file, packed or not: `train` and `.csv`."""
    plain = file.with_suffix("") if file.suffix.lower() == ".gz" else file
    return plain.stem, plain.suffix.lower()


def _parquet(file: Path) -> Rows:
    import pyarrow as pa  # takes a moment, which other files do not need
    import pyarrow.parquet as pq

    packed = file.suffix.lower() == ".gz"
    try:
        source = pa.BufferReader(read_bytes(file)) if packed else file
        _check_size(pq.read_metadata(source), file)
        table = pq.read_table(source)
    except (pa.ArrowException, OSError) as error:
        raise QualaError(f"`{file}` is not a readable parquet file: {_line(error)}.") from error
    number = 0
    for piece in table.to_batches(max_chunksize=4096):
        for row in plain_rows(piece, Place(str(file), "record", number + 1)):
            number += 1
            yield Place(str(file), "record", number), row


def _check_size(facts: pq.FileMetaData, file: Path) -> None:
    """Raise QualaError for more than memory holds: a few bytes of parquet may be any number."""
    size = sum(facts.row_group(one).total_byte_size for one in range(facts.num_row_groups))
    if facts.num_rows > MOST_ROWS or size > MOST_BYTES:
        raise QualaError(
            f"`{file}` has {facts.num_rows:,} rows of {size:,} bytes; one file may have at most "
            f"{MOST_ROWS:,} rows and {MOST_BYTES:,} bytes."
        )


def plain_rows(piece: pa.RecordBatch, first: Place) -> list[Row]:
    """Return rows as Python's values. Raises QualaError for values that Python does not have."""
    import pyarrow as pa

    try:
        rows: list[Row] = piece.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException) as error:  # no UTF-8, no such date
        if len(piece) == 1:
            raise QualaError(f"{first} cannot be read: {_line(error)}.") from error
        return [
            row
            for at in range(len(piece))
            for row in plain_rows(piece.slice(at, 1), first._replace(number=first.number + at))
        ]
    return rows


def _json(file: Path) -> Rows:
    text = read_text(file)
    try:
        content = load_json(text, file, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and error.lineno > 1:
            yield from _json_lines(file)
            return
        raise QualaError(
            f"`{file}`, line {error.lineno} is not valid JSON: {error.msg}; is the file complete?"
        ) from error
    if isinstance(content, _Repeated):
        raise QualaError(f"`{file}` has the key `{content.key}` twice.")
    if isinstance(content, dict) and "data" in content:
        content = content["data"]
        if not _are_rows(content):
            yield from _articles(content, file)
            return
    if isinstance(content, dict) and "question" not in content and "label" not in content:
        raise QualaError(
            f"`{file}` must hold a list of records or SQuAD's `data`, "
            f"got the keys {', '.join(map(str, content)) or 'none'}."
        )
    for number, row in enumerate(content if isinstance(content, list) else [content], start=1):
        place = Place(str(file), "record", number)
        _check(row, place)
        yield place, _mapping(row, place)


def _are_rows(data: object) -> bool:
    """Return whether `data` is a list of flat rows, not of SQuAD's articles."""
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        return False
    return any(row.keys() - {"title"} for row in data) and not any("paragraphs" in r for r in data)


def _articles(articles: object, file: Path) -> Rows:
    """Flatten SQuAD's articles > paragraphs > questions to the hub's columns."""
    number = 0
    place = Place(str(file), "article", 0)
    for index, article in enumerate(_list(articles, "data", place), start=1):
        place = Place(str(file), "article", index)
        _check(article, place)
        for paragraph in _list(_key(article, "paragraphs", place), "paragraphs", place):
            context = _key(paragraph, "context", place)
            for question in _list(_key(paragraph, "qas", place), "qas", place):
                number += 1
                at = Place(str(file), "question", number)
                yield at, _flat(_mapping(question, at), article, context=context, place=at)


def _flat(question: Row, article: Row, *, context: object, place: Place) -> Row:
    impossible = {IMPOSSIBLE: question[IMPOSSIBLE]} if IMPOSSIBLE in question else {}
    none = question.get("answers", []) is None and question.get(IMPOSSIBLE) is True
    answers = [] if none else _list(question.get("answers", []), "answers", place)
    return impossible | {
        "id": question.get("id"),
        "title": article.get("title"),
        "context": context,
        "question": question.get("question"),
        "answers": {
            "text": [_key(answer, "text", place) for answer in answers],
            "answer_start": [answer.get("answer_start") for answer in answers],
        },
    }


def _json_lines(file: Path) -> Rows:
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        place = Place(str(file), "line", number)
        yield place, json_row(line, place)


def json_row(line: str, place: Place) -> Row:
    """Return the row that a line of JSON holds. Raises QualaError for a line that is no row."""
    try:
        row = load_json(line, place.file, place.number, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise QualaError(f"{place} is not valid JSON: {error.msg}.") from error
    _check(row, place)
    return _mapping(row, place)


def _delimited(file: Path, *, header: bool, quoting: str) -> Rows:
    text = read_text(file)
    suffix = name_of(file)[1]
    quoted = quoting == "quoted"
    if quoting == "detect":
        quoted = suffix == ".csv" or has_quoted_fields(text, file)
    # A limit of the process; the default refuses fields over 128 KiB.
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=DELIMITERS[suffix],
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=True,
    )
    names: Sequence[str] = ()
    line = 1
    try:
        for cells in reader:
            place = Place(str(file), "line", line)
            line = reader.line_num + 1
            if not cells:
                continue
            if not names:
                names, is_header = _names(cells, place, header=header)
                if is_header:
                    continue
            if len(cells) != len(names):
                of = "header" if header else "first line"
                raise QualaError(f"{place} has {len(cells)} columns, the {of} {len(names)}.")
            yield place, dict(zip(names, cells))
    except csv.Error as error:
        raise QualaError(
            f"`{file}`, line {line} is malformed: {error}; is a quote not closed or not doubled? "
            "`data.quoting=plain` reads quotes as text."
        ) from error


def _names(cells: Sequence[str], place: Place, *, header: bool) -> tuple[Sequence[str], bool]:
    """Return the names of the columns, and whether the cells of the first line are these."""
    if not header:
        return [str(number + 1) for number in range(len(cells))], False
    if len(cells) == len(_COLA) and cells[1] in ("0", "1") and cells[2] in ("", "*"):
        return _COLA, False
    repeated = twice(filter(None, cells))
    if repeated:
        raise QualaError(f"{place}: the header repeats `{repeated}`.")
    return cells, True


def has_quoted_fields(text: str, file: Path) -> bool:
    """Return whether quotes enclose fields, as pandas writes TSV, or are text, as in GLUE's files.

    Raises QualaError where both readings are possible and differ.
    """
    fields = list(_QUOTED_FIELD.finditer(text))
    if not fields or '"' in _QUOTED_FIELD.sub("", text):
        return False
    lines = text.split("\n")
    ragged = len({line.count("\t") for line in lines if line.strip("\r")}) > 1
    if not ragged and not all(cell.startswith('"') for cell in lines[0].split("\t")):
        for field in fields:
            if '"' not in field[1] or "\n" in field[1] or "\t" in field[1]:
                line = text.count("\n", 0, field.start()) + 1
                raise QualaError(
                    f"{Place(str(file), 'line', line)}: the quotes may enclose a field or be part "
                    "of the text; choose `data.quoting=quoted` or `data.quoting=plain`."
                )
    log.info("`%s` has quoted fields, as pandas writes them.", file)
    return True


def _mapping(row: object, place: Place) -> Row:
    if not isinstance(row, dict):
        raise QualaError(f"{place} must be an object, got {type(row).__name__}.")
    return row


class _Repeated(dict[str, Any]):
    """A JSON object with a key that it has twice."""

    key: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    repeated = _Repeated(found)
    repeated.key = twice(name for name, _ in pairs) or ""
    return repeated


def twice(names: Iterable[str]) -> str | None:
    """Return the first name that was there before."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _check(value: object, place: Place, depth: int = 0) -> None:
    """Raise QualaError for a key that is there twice, half a character, and deep nesting."""
    if depth > DEEPEST:
        raise QualaError(f"{place} is nested deeper than {DEEPEST}.")
    if isinstance(value, _Repeated):
        raise QualaError(f"{place} has the key `{value.key}` twice.")
    if isinstance(value, str):
        half = None if value.isascii() else _HALF.search(value)
        if half:
            raise QualaError(
                f"{place} holds `\\u{ord(half[0]):x}`, half of a character; is a text cut there?"
            )
    elif isinstance(value, dict):
        for one in (*value, *value.values()):
            _check(one, place, depth + 1)
    elif isinstance(value, list):
        for one in value:
            _check(one, place, depth + 1)


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


_READERS = {".parquet": _parquet, ".jsonl": _json_lines, ".json": _json}
DELIMITERS = {".tsv": "\t", ".csv": ","}
SUFFIXES = (*_READERS, *DELIMITERS)
_QUOTED_FIELD = re.compile(r'(?:(?<=[\t\r\n])|\A)"((?:[^"]++|"")*+)"(?=[\t\r\n]|\Z)')
_HALF = re.compile("[\ud800-\udfff]")
_COLA = ("source", "label", "mark", "sentence")
"""The columns of CoLA's own files, which have no header."""
