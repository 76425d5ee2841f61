"""Data files: those of a folder that hold a split, and their rows, each with its place."""

from __future__ import annotations

import csv
import difflib
import io
import json
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from quala.data.spec import plain_name
from quala.errors import QualaError, unknown
from quala.reading import DEEPEST, MOST_BYTES, expanded, load_json, read_bytes, read_text

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
    return _name(file)[1]


def _name(file: Path) -> tuple[str, str]:
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
    suffix = _name(file)[1]
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

_ALIASES = (("train", "training"), ("validation", "dev", "valid", "val"))
_METADATA = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
_SHARD = re.compile(r"(.+?)[-_.](\d{5,})-of-(\d{5,})(?:-[0-9a-f]+)?|(.+?)[-_.](\d{5})")


def source_path(path: str, subset: str | None, known: Collection[str] | None) -> Path:
    """Return the file or folder at `path` or, with a subset, its sub-folder of that name.

    A file, or a folder with data files of its own, is returned where the subset is `known` (None:
    any is) and no name in the path contradicts it. Raises QualaError in all other cases, and for
    a path that does not exist, with the nearest names.
    """
    place = expanded(path)
    if not place.exists():
        if place.is_symlink():
            raise QualaError(f"`{place}` is a link that leads nowhere.")
        raise QualaError(f"`{place}` does not exist.{_nearest(place)}")
    if not place.is_file() and not place.is_dir():
        raise QualaError(f"`{place}` is a pipe or a device, neither a file nor a folder.")
    if not subset:
        return place
    folders = _folders(place)
    same = [folder for folder in folders if plain_name(folder.name) == plain_name(subset)]
    if len(same) > 1:
        both = " and ".join(f"`{folder.name}`" for folder in same)
        raise QualaError(f"`{place}` has {both} for the subset `{subset}`: name one as `path`.")
    if same:
        return same[0]
    flat = place.is_file() or bool(data_files(_own_folder(place)))
    names = [folder.name for folder in folders]
    if not flat or (known is not None and subset not in known):
        meant = [*names, *(known or ())] if flat else names
        raise unknown(f"`subset` of `{place}`", subset, meant)
    at = place.absolute()
    for name in [_name(at)[0], at.parent.name, *names] if at.is_file() else [at.name, *names]:
        if plain_name(name) in (known or ()) and plain_name(name) != subset:
            raise QualaError(
                f"`{place}` is of the subset `{plain_name(name)}` by its name or its folders, "
                f"but `subset`, which chooses the metric, is `{subset}`."
            )
    return place


def split_files(
    folder: Path, split: str, *, option: str = "test_split", more: Sequence[str] = ()
) -> list[Path]:
    """Return the files of a split: `dev-v1.1.json`, `train-00000-of-00002.parquet` and the next.

    They lie in the folder itself or, where it has no data files, in its sub-folder `data`. A file
    may also be named in full. Shards are sorted. `more` are suffixes of this format's own. Raises
    QualaError, with what is there and the `option` that names the split, when no file, several
    files, or not all shards are there.
    """
    own = _own_folder(folder, more)
    if _name(own / split)[1] in (*SUFFIXES, *more) and (own / split).is_file():
        return [own / split]
    groups: dict[tuple[str, str, bool], list[tuple[int, int, Path]]] = {}
    for file in data_files(own, more):
        stem, _ = _name(file)
        shard = _SHARD.fullmatch(stem)
        name, number, total = stem, 0, 0
        if shard:
            name = shard[1] or shard[4]
            number, total = int(shard[2] or shard[5]), int(shard[3] or 0)
        ending = "".join(file.suffixes[-2:] if file.suffix == ".gz" else file.suffixes[-1:])
        groups.setdefault((name, ending, bool(shard)), []).append((number, total, file))
    aliases = _aliases(split.lower())
    for fits in (
        lambda name: name == split.lower(),
        lambda name: name in aliases,
        lambda name: any(re.match(rf"{re.escape(alias)}[-_.]", name) for alias in aliases),
    ):
        found = [key for key in groups if fits(key[0].lower())]
        if len(found) > 1:
            names = [key[0] if key[2] else groups[key][0][2].name for key in found]
            raise QualaError(
                f"`{own}` has several candidates for the split `{split}`: {', '.join(names)}; "
                f"choose one by its name, for example `{option}={names[0]}`."
            )
        if found:
            return _all_shards(groups[found[0]], folder=own, sharded=found[0][2])
    raise _missing_split(folder, split)


def _all_shards(
    shards: Sequence[tuple[int, int, Path]], *, folder: Path, sharded: bool
) -> list[Path]:
    """Return the files in order; raise QualaError unless each shard is there, once."""
    numbers = sorted(number for number, _, _ in shards)
    totals = {total for _, total, _ in shards}
    first = min(numbers[0], 1)
    count = max(totals) or len(shards)
    if sharded and (len(totals) > 1 or numbers != list(range(first, first + count))):
        names = ", ".join(file.name for _, _, file in sorted(shards)[:8])
        raise QualaError(f"`{folder}` must have every shard of a split once, it has {names}.")
    return [file for _, _, file in sorted(shards)]


def _aliases(split: str) -> tuple[str, ...]:
    head = re.split("[-_.]", split)[0]
    names = next((group for group in _ALIASES if head in group), (head,))
    return tuple(name + split[len(head) :] for name in names)


def _visible(folder: Path) -> list[Path]:
    return sorted(item for item in folder.iterdir() if not item.name.startswith("."))


def _folders(place: Path) -> list[Path]:
    return [item for item in _visible(place) if item.is_dir()] if place.is_dir() else []


def _own_folder(folder: Path, more: Sequence[str] = ()) -> Path:
    """Return the folder or, where only its sub-folder `data` has data files, that one."""
    if data_files(folder, more):
        return folder
    filled = [item for item in _folders(folder) if data_files(item, more)]
    return filled[0] if [item.name for item in filled] == ["data"] else folder


def data_files(folder: Path, more: Sequence[str] = ()) -> list[Path]:
    """Return the data files of a folder, sorted, without hidden ones and those of sub-folders."""
    known = (*SUFFIXES, *more)
    files = [file for file in _visible(folder) if _name(file)[1] in known and file.is_file()]
    return [file for file in files if file.name not in _METADATA]


def _missing_split(folder: Path, split: str) -> QualaError:
    own = data_files(_own_folder(folder))
    nested = [file for item in _folders(folder) for file in data_files(item)]
    found = ", ".join(str(file.relative_to(folder)) for file in (own or nested)[:8])
    hint = f"found {found or 'no data files'}"
    if own:
        hint += "; `data.train_split` and `data.test_split` take the name of a file"
    elif nested:
        hint += "; sub-folders are not searched, `path` or `subset` names one"
    return QualaError(
        f"`{folder}` has no `{split}` split: expected {split}.parquet, .jsonl, .json, .tsv "
        f"or .csv, {hint}."
    )


def _nearest(place: Path) -> str:
    parent = place.parent
    if not parent.is_dir():
        return f" Neither does the folder `{parent}`."
    near = difflib.get_close_matches(place.name, [item.name for item in parent.iterdir()], n=1)
    return f" Did you mean `{parent / near[0]}`?" if near else ""
