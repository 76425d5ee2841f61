"""Files of rows that are read and written piece by piece, so that their size does not matter."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from quala.data.files import (
    DELIMITERS,
    SUFFIXES,
    Place,
    Row,
    has_quoted_fields,
    json_row,
    plain_rows,
    read_rows,
    suffix_of,
    twice,
)
from quala.errors import QualaError, unknown

LONGEST_LINE = 2**26
"""Bytes of a line: more is no row, and memory has an end."""
HEAD = 1000
"""Lines of a TSV file in which quoted fields are looked for."""
AT_ONCE = 256
"""Rows of a parquet file that are held."""
PREDICTIONS = ".json"
"""The suffix of SQuAD's predictions, one object {id: text}."""
WRITTEN = (".jsonl", *DELIMITERS, ".parquet")
"""Suffixes of files that `write_rows` writes, all of them also as .gz."""


class Line(NamedTuple):
    """A row of a file, or why it cannot be read; `done` is how much of the file is read."""

    row: Row
    error: str | None
    done: float


class RowFile:
    """A parquet, JSON, JSON-lines, TSV or CSV file, or one packed as .gz, as a stream of rows.

    JSON, and packed parquet, are read whole. `quoting` is that of `DataSpec`. Raises QualaError
    for a file that cannot be read, for a name of another kind, and for a header that repeats a
    name. Rows that cannot be read are returned as such.
    """

    def __init__(self, file: Path, *, quoting: str = "detect") -> None:
        self.file, self._quoting, self._suffix = file, quoting, suffix_of(file)
        if not file.is_file():
            kind = "is no regular file" if file.exists() else "does not exist"
            raise QualaError(f"`{file}` {kind}.")
        if self._suffix not in SUFFIXES:
            raise unknown("data file format", self._suffix or file.name, SUFFIXES)
        self.total = float(file.stat().st_size)
        self.columns: tuple[str, ...] | None = None
        """The names of the columns; None where each row has names of its own."""
        self.schema: Any = None
        """The types of a parquet file's columns."""
        if self._suffix in DELIMITERS:
            with self._opened() as lines:
                self.columns = tuple(next(self._cells(lines), ((), 0.0))[0])
        elif self._in_pieces:
            with self._parquet() as found:
                self.schema, self.total = found.schema_arrow, float(found.metadata.num_rows)
                self.columns = tuple(self.schema.names)
        if repeated := twice(filter(None, self.columns or ())):
            raise QualaError(f"`{file}` has the column `{repeated}` twice.")

    @property
    def _in_pieces(self) -> bool:
        return self.file.suffix.lower() == ".parquet"

    def __iter__(self) -> Iterator[Line]:
        """Yield the rows. Raises QualaError for a file that has none, or that ends too early."""
        if self._suffix == ".jsonl":
            found = self._json_lines()
        elif self._suffix in DELIMITERS:
            found = self._delimited()
        elif self._in_pieces:
            found = self._records()
        else:
            found = (Line(row, None, 0.0) for _, row in read_rows(self.file))
        line = None
        for line in found:
            yield line
        if line is None:
            raise QualaError(f"`{self.file}` holds no rows.")

    def _json_lines(self) -> Iterator[Line]:
        with self._opened() as lines:
            for number, (text, done) in enumerate(lines, start=1):
                if not text.strip():
                    continue
                try:
                    text.encode()
                    yield Line(
                        json_row(text.rstrip("\r\n"), Place("data", "line", number)), None, done
                    )
                except UnicodeEncodeError:
                    yield Line({}, f"line {number} is no UTF-8 text.", done)
                except QualaError as error:
                    yield Line({}, str(error).removeprefix("`data`, "), done)

    def _delimited(self) -> Iterator[Line]:
        names = self.columns or ()
        with self._opened() as lines:
            rows = self._cells(lines)
            next(rows, None)
            for cells, done in rows:
                error = None
                if isinstance(cells, QualaError):
                    cells, error = [], str(cells)
                elif len(cells) != len(names):
                    error = f"The row has {len(cells)} columns, the header {len(names)}."
                yield Line(dict(zip(names, cells)), error, done)

    def _cells(self, lines: Iterator[tuple[str, float]]) -> Iterator[tuple[Any, float]]:
        """Yield the cells of each row, or an error for a row that is malformed."""
        done = 0.0

        def texts() -> Iterator[str]:
            nonlocal done
            for text, at in lines:
                done = at
                yield text

        csv.field_size_limit(2**31 - 1)  # of the process; the default refuses fields over 128 KiB
        reader = csv.reader(
            texts(),
            delimiter=DELIMITERS[self._suffix],
            quoting=csv.QUOTE_MINIMAL if self._has_quotes() else csv.QUOTE_NONE,
            strict=True,
        )
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if "end of data" in str(error):
                    raise QualaError(
                        f"`{self.file}` ends inside of a quoted field: a quote is not closed; "
                        "`--quoting plain` reads quotes as text."
                    ) from error
                yield QualaError(f"The row is malformed: {error}."), done
                continue
            if cells is None:
                return
            if cells:
                yield cells, done

    def _has_quotes(self) -> bool:
        if self._quoting == "detect" and self._suffix == ".tsv":
            with self._opened() as lines:
                head = "".join(text for text, _ in islice(lines, HEAD))
            try:
                return has_quoted_fields(head, self.file)
            except QualaError as error:
                raise QualaError(str(error).replace("data.quoting=", "--quoting ")) from error
        return self._quoting != "plain"

    @contextmanager
    def _opened(self) -> Iterator[Iterator[tuple[str, float]]]:
        """Give the lines, each with how much is read; bytes that are no UTF-8 stay as they are."""
        with ExitStack() as stack:
            raw = stack.enter_context(open(self.file, "rb"))
            packed = self.file.suffix.lower() == ".gz"
            stream: Any = stack.enter_context(gzip.GzipFile(fileobj=raw)) if packed else raw

            def lines() -> Iterator[tuple[str, float]]:
                first = True
                while line := self._line(stream):
                    line = line.removeprefix(b"\xef\xbb\xbf") if first else line
                    first = False
                    yield line.decode("utf-8", "surrogateescape"), float(raw.tell())

            yield lines()

    def _line(self, stream: IO[bytes]) -> bytes:
        try:
            line = stream.readline(LONGEST_LINE)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise QualaError(f"`{self.file}` cannot be read: {error}.") from error
        if len(line) == LONGEST_LINE:
            raise QualaError(f"`{self.file}` has a line of more than {LONGEST_LINE:,} bytes.")
        return line

    @contextmanager
    def _parquet(self) -> Iterator[Any]:
        import pyarrow as pa  # takes a moment, which other files do not need
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.file) as found:
                yield found
        except (pa.ArrowException, OSError) as error:
            reason = (str(error).splitlines() or [""])[0].rstrip(".")
            raise QualaError(f"`{self.file}` is not a readable parquet file: {reason}.") from error

    def _records(self) -> Iterator[Line]:
        number = 0
        for piece in self.batches():
            for at in range(len(piece)):
                number += 1
                try:
                    (row,) = plain_rows(piece.slice(at, 1), Place("data", "record", number))
                    yield Line(row, None, float(number))
                except QualaError as error:
                    yield Line({}, str(error).removeprefix("`data`, "), float(number))

    def batches(self) -> Iterator[Any]:
        """Yield the record batches of a parquet file, of AT_ONCE rows or fewer."""
        with self._parquet() as found:
            yield from found.iter_batches(batch_size=AT_ONCE)


Kinds = Mapping[str, str]
"""The types of columns by name: text, number, whole, or json for lists and objects."""


def write_rows(
    source: RowFile, added: Callable[[], Iterable[Row]], kinds: Kinds, out: Path, name: Path
) -> None:
    """Write the rows of a file, each with what is added to it, to `out` in the format of `name`.

    `added` is called for each pass. Raises QualaError for a format that is not written.
    """
    suffix = suffix_of(name)
    if suffix == ".parquet":
        _write_parquet(source, added, kinds, out)
        return
    with open(out, "wb") as file, ExitStack() as stack:
        # Without a name and a time in it, the same rows make the same file.
        packed = name.suffix.lower() == ".gz"
        stream: Any = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if packed else file
        text = stack.enter_context(
            io.TextIOWrapper(
                stream,
                encoding="utf-8",
                errors="surrogateescape" if suffix in DELIMITERS else "backslashreplace",
                newline="",
            )
        )
        rows = _joined(source, added())
        if suffix == ".jsonl":
            for row in rows:
                text.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        elif suffix in DELIMITERS:
            names = [*_names(source), *kinds]
            writer = csv.writer(text, delimiter=DELIMITERS[suffix], lineterminator="\n")
            writer.writerow(names)
            writer.writerows([_cell(row.get(one)) for one in names] for row in rows)
        else:
            raise unknown("format to write", suffix or name.name, WRITTEN)


def _joined(source: RowFile, added: Iterable[Row]) -> Iterator[Row]:
    for line, more in zip(source, added, strict=True):
        yield {**line.row, **more}


def _names(source: RowFile) -> list[str]:
    """Return the columns of a file, for rows with names of their own in order of appearance."""
    if source.columns is not None:
        return list(source.columns)
    return list(dict.fromkeys(name for line in source for name in line.row))


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _write_parquet(
    source: RowFile, added: Callable[[], Iterable[Row]], kinds: Kinds, out: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(_types(source, added, kinds))
    own = None if source.schema is None else source.batches()
    rows = _joined(source, added()) if own is None else iter(added())
    with pq.ParquetWriter(out, schema) as writer:
        while True:
            columns = [] if own is None else next(own, pa.record_batch([])).columns
            part = list(islice(rows, len(columns[0]) if columns else AT_ONCE))
            if not part:
                return
            for field in list(schema)[len(columns) :]:
                values: list[Any] = [row.get(field.name) for row in part]
                if field.type == pa.string():
                    values = [_text(one) for one in values]
                columns.append(pa.array(values, field.type))
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _types(
    source: RowFile, added: Callable[[], Iterable[Row]], kinds: Kinds
) -> list[tuple[str, Any]]:
    """Return the columns to write with their types; of different types in one, text is made."""
    import pyarrow as pa

    plain = {"text": pa.string(), "number": pa.float64(), "whole": pa.int64()}
    if source.schema is not None:
        own = [(one.name, one.type) for one in source.schema]
    elif source.columns is not None:
        own = [(name, pa.string()) for name in source.columns]
    else:
        own = list(_inferred(line.row for line in source).items())
    of_json = [name for name, kind in kinds.items() if kind == "json"]
    plain |= _inferred({one: row.get(one) for one in of_json} for row in added())
    return own + [(name, plain[name if kind == "json" else kind]) for name, kind in kinds.items()]


def _inferred(rows: Iterable[Row]) -> dict[str, Any]:
    """Return the type of each column, text where there is no common one."""
    import pyarrow as pa

    found: dict[str, Any] = {}
    rows = iter(rows)
    while part := list(islice(rows, AT_ONCE)):
        for name in dict.fromkeys(name for row in part for name in row):
            before = found.get(name, pa.null())
            try:
                one = pa.array([row.get(name) for row in part]).type
                both = pa.unify_schemas(
                    [pa.schema([("", before)]), pa.schema([("", one)])],
                    promote_options="permissive",
                )
                found[name] = both.field(0).type
            except (pa.ArrowException, OverflowError, UnicodeError):
                found[name] = pa.string()
    return {name: pa.string() if one == pa.null() else one for name, one in found.items()}


def _text(value: object) -> str | None:
    return None if value is None else _cell(value).encode("utf-8", "replace").decode()
