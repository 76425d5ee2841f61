"""CoNLL files: a word and its tags a line, a blank line between sentences."""

from __future__ import annotations

from pathlib import Path

from quala.data.files import Place, Rows
from quala.errors import QualaError
from quala.reading import read_text

DOCUMENT = "-DOCSTART-"
COMMENTS = ("# id", "# sent_id", "# text")
"""Beginnings of lines before a sentence that are no words; a word may be `#`."""


def conll_rows(file: Path) -> Rows:
    """Yield the sentences of a CoNLL file: the columns 1, 2, ... as lists, and `document`.

    Columns are separated by tabs, or by blanks in lines without tabs. `-DOCSTART-` begins a
    document, counted from 1; a file without it has `document` None. Raises QualaError for lines
    of different numbers of columns, of a single one, and for a file without words.
    """
    words: list[list[str]] = []
    first = document = width = 0
    for number, line in enumerate([*read_text(file).split("\n"), ""], start=1):
        cells = line.rstrip("\r").split("\t") if "\t" in line else line.split()
        begins = bool(cells) and cells[0] == DOCUMENT
        if begins or not line.strip():
            if words:
                columns = {
                    str(place): [*cells] for place, cells in enumerate(zip(*words), start=1)
                }
                yield Place(str(file), "line", first), columns | {"document": document or None}
            words, document = [], document + begins
            continue
        if not words and line.startswith(COMMENTS):
            continue
        width = width or len(cells)
        if len(cells) != width or width < 2:
            wanted = "two or more" if width < 2 else f"{width}, as those before"
            raise QualaError(
                f"{Place(str(file), 'line', number)} has {len(cells)} columns instead of {wanted}."
            )
        first = first if words else number
        words.append(cells)
    if not width:
        raise QualaError(f"`{file}` holds no rows.")
