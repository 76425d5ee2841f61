"""Limits of the options of a config, written beside each option."""

from __future__ import annotations

from dataclasses import MISSING, field, fields
from operator import ge, gt, le, lt
from typing import Any

from quala.errors import QualaError

_LIMITS = {"above": gt, "at_least": ge, "below": lt, "at_most": le}


def ranged(default: Any = MISSING, *, identity: Any = True, **limits: float) -> Any:
    """Return a field of a config with limits: `above`, `at_least`, `below`, `at_most`.

    Null is always allowed. The limits of a list are those of its entries.
    """
    return field(default=default, metadata={"range": limits, "identity": identity})


def check_ranges(config: Any) -> None:
    """Raise QualaError for the first option outside its limits."""
    for item in fields(config):
        limits, value = item.metadata.get("range", {}), getattr(config, item.name)
        entries = value if isinstance(value, list) else [] if value is None else [value]
        for entry in entries:
            if not all(_LIMITS[name](entry, limit) for name, limit in limits.items()):
                allowed = [f"{name.replace('_', ' ')} {limit}" for name, limit in limits.items()]
                raise QualaError(f"`{item.name}` must be {' and '.join(allowed)}, got {entry}.")
