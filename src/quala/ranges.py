"""Limits of the options of a config, written beside each option."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, Field, field, fields
from operator import ge, gt, le, lt
from typing import Any

from quala.errors import QualaError

LARGEST_SEED = 2**32 - 1
"""As of numpy's and Lightning's own seeding."""
_LIMITS = {"above": gt, "at_least": ge, "below": lt, "at_most": le}


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
            finite = math.isfinite(entry)
            if finite and all(_LIMITS[name](entry, limit) for name, limit in limits.items()):
                continue
            allowed = [f"{name.replace('_', ' ')} {limit}" for name, limit in limits.items()]
            words = " and ".join(allowed if finite else [*allowed, "finite"])
            raise QualaError(f"`{call(item.name)}` must be {words}, got {entry}.")


def counts(option: Field[Any], value: Any) -> bool:
    """Return whether an option of a config is part of its identity, as `identity` says.

    One marked "if set" is where it is not at its default.
    """
    marked = option.metadata.get("identity", True)
    if marked != "if set":
        return bool(marked)
    made = option.default_factory
    return bool(value != (option.default if made is MISSING else made()))
