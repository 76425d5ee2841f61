"""Files that others wrote, read within bounds: what is not a file, has no end, or blows up."""

from __future__ import annotations

import gzip
import json
import os
import re
import stat
import zlib
from pathlib import Path
from typing import Any

from quala.errors import QualaError

MOST_BYTES = 4 * 2**30
"""Of one file, unpacked."""
PACKED = 100
"""Times that an unpacked file may be larger than the packed one, from 64 MiB on; texts are ten."""
PIPED = 2**28
"""Bytes from a pipe, which may have no end."""
_HELD = re.compile(r"/(?:dev|proc/self)/fd/([0-9]{1,9})|/dev/stdin")
"""Names of what the process holds open."""
DEEPEST = 100
"""Lists and objects of JSON in one another."""
_NESTING = re.compile(r'"(?:[^"\\]|\\.)*+"|([\[{])|[\]}]', re.DOTALL)
_LONG_NUMBER = re.compile(r"\d{4301}")
"""Python's own limit, beyond which reading takes quadratic time."""


def expanded(path: str | Path) -> Path:
    """Return a path with `~` as the home folder, and as it is where there is none."""
    return Path(os.path.expanduser(path))


def read_bytes(file: Path, most: int = MOST_BYTES, *, piped: bool = False) -> bytes:
    """Return the content of a regular file, unpacked where its name ends in .gz.

    `piped` allows a pipe that the command was started with, such as `<(...)` of a shell makes.
    Raises QualaError, at once, for what cannot be read, for other pipes and devices, and for more
    than `most` bytes.
    """
    packed = file.suffix.lower() == ".gz"
    try:
        facts = file.stat()
        held = _HELD.fullmatch(str(file)) if piped and stat.S_ISFIFO(facts.st_mode) else None
        if not held and not stat.S_ISREG(facts.st_mode):
            kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "a pipe or a device"
            raise QualaError(f"`{file}` cannot be read: it is {kind}, no file.")
        most = min(most, max(2**26, PACKED * facts.st_size)) if packed else most
        where = os.dup(int(held[1] or 0)) if held else file  # a second opening could wait
        most = min(most, PIPED) if held else most
        with gzip.open(file) if packed else open(where, "rb") as stream:
            content = stream.read(most + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise QualaError(f"`{file}` cannot be read: {reason}.") from error
    if len(content) > most:
        raise QualaError(
            f"`{file}` has more than {most:,} bytes{' when it is unpacked' if packed else ''}, "
            "which is too much for one file."
        )
    return content


def read_text(file: Path, most: int = MOST_BYTES, *, piped: bool = False) -> str:
    """Return the text of a file as `read_bytes`, without a byte order mark; line ends stay.

    Raises QualaError also for a file that is empty, or no UTF-8 text.
    """
    content = read_bytes(file, most, piped=piped)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise QualaError(
            f"`{file}`, line {content.count(bytes([10]), 0, error.start) + 1} is not readable as "
            f"UTF-8 text: {error}."
        ) from error
    if not text.strip():
        raise QualaError(f"`{file}` is empty.")
    if (nul := text.find("\0")) >= 0:
        raise QualaError(f"`{file}`, line {_line(text, nul)} has a NUL character: is it a text?")
    return text


def load_json(text: str, file: Path | str, first: int = 1, **hooks: Any) -> Any:
    """Return what a text holds as JSON; its line 1 is line `first` of the file.

    `hooks` are those of `json.loads`. Raises json.JSONDecodeError, and QualaError for what is
    nested too deep and for numbers that are too long.
    """
    try:
        return json.loads(text, **hooks)
    except json.JSONDecodeError:
        raise
    except RecursionError as error:
        line = first - 1 + _line(text, _deep(text))
        raise QualaError(f"`{file}`, line {line} is nested deeper than {DEEPEST}.") from error
    except ValueError as error:
        long = _LONG_NUMBER.search(text)
        line = first - 1 + _line(text, long.start() if long else 0)
        raise QualaError(f"`{file}`, line {line} has a number that is too long.") from error


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def _deep(text: str) -> int:
    """Return where a text of JSON is nested too deep."""
    depth = 0
    for one in _NESTING.finditer(text):
        if one[0][0] != '"':
            depth += 1 if one[1] else -1
        if depth > DEEPEST:
            return one.start()
    return 0
