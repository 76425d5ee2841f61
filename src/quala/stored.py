"""Reads JSON that others wrote: within limits, and into types that are stated."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from quala.errors import QualaError
from quala.ranges import check_ranges

LARGEST = 2**25
"""Bytes of a JSON file; the largest that quala writes, of long searches, have about a tenth."""
DEEPEST = 64
"""Levels of a JSON file, many more than quala or transformers write; what walks it may recurse."""
_WORDS = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false"}
_SHOWN = 40


def read_json(file: Path, *, largest: int = LARGEST) -> Any:
    """Read a JSON file.

    Raises QualaError where there is none, for one that is too large or no JSON, and for numbers
    that are not finite and keys that come twice, which other readers take in different ways.
    """
    try:
        check_size(file, largest)
        found = json.loads(
            file.read_bytes().decode("utf-8-sig"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_finite,
        )
        _check_depth(found)
        return found
    except OSError as error:
        raise QualaError(f"`{file}` cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise QualaError(f"`{file}` is not UTF-8 text: byte {error.start}.") from error
    except RecursionError as error:
        raise QualaError(f"`{file}` is nested more than {DEEPEST} levels deep.") from error
    except ValueError as error:
        raise QualaError(f"`{file}` is no valid JSON: {error}.") from error


def check_size(file: Path, largest: int) -> None:
    """Raise QualaError for what is no regular file, and for a file of more bytes."""
    if not file.is_file():
        raise QualaError(f"There is no file `{file}`.")
    if (size := file.stat().st_size) > largest:
        raise QualaError(f"`{file}` has {size:,} bytes, more than the {largest:,} that are read.")


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object. Raises QualaError as `read_json`."""
    return cast("dict[str, Any]", typed(Mapping[str, Any], read_json(file), str(file)))


def read_stored(kind: Any, file: Path) -> Any:
    """Read a JSON file as `typed` does. Raises QualaError, which names the file."""
    return stored(kind, read_json(file), file)


def stored(kind: Any, value: Any, file: Path) -> Any:
    """Return what a file holds as `typed` does. Raises QualaError, which names the file."""
    try:
        return typed(kind, value)
    except QualaError as error:
        raise QualaError(f"`{file}` is damaged: {error}") from error


def typed(kind: Any, value: Any, name: str = "") -> Any:
    """Return a JSON value as a type: a dataclass, list, tuple, mapping, literal or scalar.

    Keys that a dataclass does not have are left out, as a newer version may write them; the limits
    of `quala.ranges` hold. Raises QualaError that says what `name` must be.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any or (value is None and NoneType in inner):
        return value
    if origin in (Union, UnionType):
        kinds = [one for one in inner if one is not NoneType]
        return typed(float if set(kinds) == {int, float} else kinds[0], value, name)
    if origin is Literal:
        if isinstance(value, str) and value in inner:
            return value
        raise _wrong(name, f"one of {', '.join(inner)}", value)
    if is_dataclass(kind):
        return _dataclass(kind, value, name)
    if origin in (list, tuple):
        return _sequence(origin, inner, value, name)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise _wrong(name, "an object", value)
        return {
            _key(inner[0], key, name): typed(inner[1], value[key], f"{name}.{key}")
            for key in value
        }
    known = {float: int | float}.get(kind, kind)
    number = kind in (int, float)
    if not isinstance(value, known) or (number and isinstance(value, bool)):
        raise _wrong(name, _WORDS[kind], value)
    if number and not (abs(value) < 2**63 and math.isfinite(value)):
        raise _wrong(name, f"{_WORDS[kind]} below 2^63", value)
    return value


def _dataclass(kind: Any, value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(name, "an object", value)
    hints, values = get_type_hints(kind), {}
    for one in fields(kind):
        if not one.init:
            continue
        if one.name in value:
            values[one.name] = typed(hints[one.name], value[one.name], f"{name}.{one.name}")
        elif one.default is MISSING and one.default_factory is MISSING:
            raise QualaError(f"{_called(name)} lacks `{one.name}`.")
    made = kind(**values)
    check_ranges(made, lambda own: f"{name}.{own}".lstrip("."))
    return made


def _sequence(origin: Any, inner: tuple[Any, ...], value: Any, name: str) -> Any:
    if not isinstance(value, list):
        raise _wrong(name, "a list", value)
    if origin is tuple and inner[-1] is not ... and len(inner) != len(value):
        raise _wrong(name, f"a list of {len(inner)}", value)
    each = inner if origin is tuple and inner[-1] is not ... else (inner[0],) * len(value)
    read = (
        typed(one, item, f"{name}[{place}]")
        for place, (one, item) in enumerate(zip(each, value, strict=True))
    )
    return origin(read)


def _key(kind: Any, key: str, name: str) -> Any:
    if kind is not int:
        return key
    if not (key.isascii() and key.isdigit() and len(key) < len(str(2**63))):
        raise _wrong(name, "an object with whole numbers as keys", key)
    return int(key)


def _wrong(name: str, wanted: str, got: Any) -> QualaError:
    shown = "an object" if isinstance(got, dict) else json.dumps(got)
    if isinstance(got, list):
        shown = "a list"
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
    return QualaError(f"{_called(name)} must be {wanted}, got {shown}.")


def _called(name: str) -> str:
    return f"`{name.lstrip('.')}`" if name else "the whole"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key `{twice[:_SHOWN]}` comes twice")
    return found


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            item
            for one in level
            if isinstance(one, dict | list)
            for item in (one.values() if isinstance(one, dict) else one)
        ]
    if level:
        raise RecursionError


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is no number that JSON has")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:_SHOWN]} is too large")
    return number
