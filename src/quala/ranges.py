"""What an option of a config may be, written beside each option: limits, names, texts."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import MISSING, Field, field, fields
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from quala.errors import QualaError, quoted

LARGEST_SEED = 2**32 - 1
"""As of numpy's and Lightning's own seeding."""
MANY = 1_000_000_000
"""Of rows, steps or units of cost: more are a slip."""
_LIMITS = {"above": gt, "at_least": ge, "below": lt, "at_most": le}

Text = Literal["line", "name", "place", "store"]
LONGEST: dict[Text, int] = {"line": 500, "name": 64, "place": 2000, "store": 2000}
"""Characters of each kind of text. Guesses, far above what is usual."""
LONGEST_PART = 255
"""Bytes of a name in a file system."""
STORES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql")
"""Kinds of tracking stores, as their addresses begin; a driver may follow, `mysql+pymysql`."""
SQLITE_HEAD = b"SQLite format 3\0"
MOST_ENTRIES = 10_000
"""Of a list or a mapping in a config."""
_NAME = re.compile(r"\w([\w .+()-]*[\w+)])?")
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def ranged(default: Any = MISSING, *, identity: Any = True, **limits: float) -> Any:
    """Return a dataclass field with limits: `above`, `at_least`, `below`, `at_most`.

    Null is always allowed, infinity never. The limits of a list or of a mapping are those of its
    entries. `identity` is as in `quala.workflow.identity.config_identity`.
    """
    return field(default=default, metadata={"range": limits, "identity": identity})


def text(kind: Text, default: Any = MISSING, *, identity: Any = True, **metadata: Any) -> Any:
    """Return a dataclass field for a text, or for texts in a list or a mapping.

    `line` is read by people or compared with what a file says, `name` is part of the name of a
    file or a run, `place` is a path, an address or a run, `store` the address of a store.
    A `default` that is a class makes it. `metadata` is more of the field's, such as `names` that
    completion offers; `identity` is as for `ranged`.
    """
    told = {"text": kind, "identity": identity, **metadata}
    if isinstance(default, type):
        return field(default_factory=default, metadata=told)
    return field(default=default, metadata=told)


def check_ranges(config: Any, call: Callable[[str], str] = str) -> None:
    """Raise QualaError for the first option that is not as its field says.

    Its name is the one that `call` gives. A field may have limits (`ranged`), a kind of text
    (`text`), or `plugins` in its metadata: the registry that its names are from.
    """
    for item in fields(config):
        value, told = getattr(config, item.name), item.metadata
        if isinstance(value, list | tuple | dict) and len(value) > MOST_ENTRIES:
            raise QualaError(
                f"`{call(item.name)}` must have at most {MOST_ENTRIES} entries, got {len(value)}."
            )
        if isinstance(value, dict) and told.keys() & {"range", "text"}:
            for key in value:
                check_text(f"{call(item.name)} key", key, "line")
        if (registry := told.get("plugins")) is not None:
            for entry in (value,) if isinstance(value, str) else value or ():
                check_text(call(item.name), entry, "line")
                registry.check_option(call(item.name), entry)
        for key, entry in _entries(value):
            name = f"{call(item.name)}{key}"
            if "range" in told:
                check_number(name, entry, told["range"])
            if "text" in told:
                check_text(name, entry, told["text"])


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what is not null in a value, behind the name that it adds to that of the option."""
    if isinstance(value, dict):
        yield from ((f".{key}", entry) for key, entry in value.items() if entry is not None)
    elif isinstance(value, list | tuple):
        yield from (("", entry) for entry in value)
    elif value is not None:
        yield "", value


def check_number(name: str, value: Any, limits: Mapping[str, float]) -> None:
    """Raise QualaError unless a number is within its limits; `name` is what errors call it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise QualaError(f"`{name}` must be a number, got {quoted(repr(value))}.")
    finite = isinstance(value, int) or math.isfinite(value)
    if finite and all(_LIMITS[limit](value, bound) for limit, bound in limits.items()):
        return
    allowed = [f"{limit.replace('_', ' ')} {bound}" for limit, bound in limits.items()]
    words = " and ".join(allowed if finite else [*allowed, "finite"])
    raise QualaError(f"`{name}` must be {words}, got {quoted(value)}.")


def check_text(name: str, value: Any, kind: Text) -> None:
    """Raise QualaError unless a text is of a kind, as `text` has them; errors call it `name`."""
    if not isinstance(value, str):
        raise QualaError(f"`{name}` must be a text, got {quoted(repr(value))}.")
    if len(value) > LONGEST[kind]:
        raise QualaError(
            f"`{name}` must have at most {LONGEST[kind]} characters, got {len(value)}."
        )
    for place, one in enumerate(value, start=1):
        if unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") or one in _DIRECTIONS:
            raise QualaError(
                f"`{name}` must be one line without control characters, got U+{ord(one):04X} as "
                f"character {place}."
            )
    if kind in ("place", "store"):
        if not value.strip():
            raise QualaError(f"`{name}` must not be blank, got `{quoted(value)}`.")
        if value.startswith("~") and os.path.expanduser(value).startswith("~"):
            user = value.partition("/")[0]
            raise QualaError(f"`{name}` begins with `{quoted(user)}`, which is no user's folder.")
        longest = max(len(part.encode()) for part in value.split("/"))
        if longest > LONGEST_PART:
            raise QualaError(
                f"`{name}` must have at most {LONGEST_PART} bytes between two slashes, got "
                f"{longest}."
            )
    if kind == "store":
        _check_store(name, value)
    if kind == "name" and not _NAME.fullmatch(value):
        raise QualaError(
            f"`{name}` must be letters, digits, blanks or . _ + - ( ), and begin with a letter or "
            f"a digit, for files are named by it; got `{quoted(value)}`."
        )


def _check_store(name: str, value: str) -> None:
    scheme = value.partition("://")[0] if "://" in value else ""
    if scheme.partition("+")[0] not in STORES:
        raise QualaError(
            f"`{name}` must begin with one of {', '.join(f'{one}://' for one in STORES)}, such as "
            f"sqlite:///mlruns/mlflow.db or https://HOST, got `{quoted(scheme or value, 40)}`."
        )
    try:
        urlsplit(value).port  # noqa: B018 - raises
    except ValueError as error:
        # The reason may quote a part of a password.
        raise QualaError(f"`{name}` must have a number as its port.") from error
    if scheme != "sqlite":
        return
    # SQLite takes a very short file for an empty database, and MLflow would write one over it.
    file = value.removeprefix("sqlite://").removeprefix("/")
    try:
        if not file or os.path.isdir(file):
            raise QualaError(f"`{name}` must name a file, sqlite:///FILE, got `{quoted(value)}`.")
        with open(file, "rb") if os.path.isfile(file) else nullcontext() as stream:
            head = stream.read(len(SQLITE_HEAD)) if stream else b""
    except OSError as error:
        raise QualaError(f"`{name}` must name a database, {error}.") from error
    if (head and head != SQLITE_HEAD) or (os.path.exists(file) and not os.path.isfile(file)):
        raise QualaError(f"`{name}` must name a SQLite database, which `{quoted(file)}` is not.")


def check_folder_place(name: str, place: str) -> None:
    """Raise QualaError where a folder cannot be, because a part of its path is no folder."""
    path = Path(place).absolute()
    there = next(one for one in (path, *path.parents) if os.path.lexists(one))
    if not there.is_dir():
        raise QualaError(f"`{name}` must be a folder, got `{quoted(place)}`: `{there}` is none.")


def counts(option: Field[Any], value: Any) -> bool:
    """Return whether an option of a config is part of its identity, as `identity` says.

    One marked "if set" is where it is not at its default.
    """
    marked = option.metadata.get("identity", True)
    if marked != "if set":
        return bool(marked)
    made = option.default_factory
    return bool(value != (option.default if made is MISSING else made()))
