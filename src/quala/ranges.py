"""Limits of the options of a config, written beside each option."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, field, fields
from operator import ge, gt, le, lt
from typing import Any, Literal

from quala.errors import QualaError

LARGEST_SEED = 2**32 - 1
"""As of numpy's and Lightning's own seeding."""
_LIMITS = {"above": gt, "at_least": ge, "below": lt, "at_most": le}

Text = Literal["line", "name", "place"]
LONGEST: dict[Text, int] = {"line": 500, "name": 64, "place": 2000}
"""Characters of each kind of text. Guesses, far above what is usual."""
_NAME = re.compile(r"\w([\w .+()-]*[\w+)])?")
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def ranged(default: Any = MISSING, *, identity: Any = True, **limits: float) -> Any:
    """Return a dataclass field with limits: `above`, `at_least`, `below`, `at_most`.

    Null is always allowed, infinity never. The limits of a list are those of its entries.
    `identity` is as in `quala.workflow.identity.config_identity`.
    """
    return field(default=default, metadata={"range": limits, "identity": identity})


def check_ranges(config: Any, call: Callable[[str], str] = str) -> None:
    """Raise QualaError for the first option outside its limits, by the name that `call` gives."""
    for item in fields(config):
        limits, value = item.metadata.get("range"), getattr(config, item.name)
        if limits is None or value is None:
            continue
        for entry in value if isinstance(value, list) else [value]:
            check_number(call(item.name), entry, limits)


def check_number(name: str, value: Any, limits: Mapping[str, float]) -> None:
    """Raise QualaError unless a number is within its limits; `name` is what errors call it."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise QualaError(f"`{name}` must be a number, got {value!r}.")
    finite = isinstance(value, int) or math.isfinite(value)
    if finite and all(_LIMITS[limit](value, bound) for limit, bound in limits.items()):
        return
    allowed = [f"{limit.replace('_', ' ')} {bound}" for limit, bound in limits.items()]
    words = " and ".join(allowed if finite else [*allowed, "finite"])
    raise QualaError(f"`{name}` must be {words}, got {value}.")


def check_text(name: str, value: Any, kind: Text) -> None:
    """Raise QualaError unless a text is of a kind; `name` is what errors call it.

    `line` is read by people or compared with what a file says, `name` is part of the name of a
    file or a run, `place` is a path, an address or a run.
    """
    if not isinstance(value, str):
        raise QualaError(f"`{name}` must be a text, got {value!r}.")
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
    if kind == "place" and not value.strip():
        raise QualaError(f"`{name}` must not be blank, got `{value}`.")
    if kind == "name" and not _NAME.fullmatch(value):
        raise QualaError(
            f"`{name}` must be letters, digits, blanks or . _ + - ( ), and begin with a letter or "
            f"a digit, for files are named by it; got `{value}`."
        )


def counts(option: Field[Any], value: Any) -> bool:
    """Return whether an option of a config is part of its identity, as `identity` says.

    One marked "if set" is where it is not at its default.
    """
    marked = option.metadata.get("identity", True)
    if marked != "if set":
        return bool(marked)
    made = option.default_factory
    return bool(value != (option.default if made is MISSING else made()))
