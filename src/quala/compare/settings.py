"""Short labels of settings: the options in which runs of one system differ."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby

Setting = Mapping[str, str]
"""Options by dotted name, in the order of the stages; false and null options are absent."""

OFF = "off"
BASE = "base"


def differing(settings: Sequence[Setting]) -> list[str]:
    """Return the options that do not have the same value everywhere, in order of appearance."""
    keys = dict.fromkeys(key for setting in settings for key in setting)
    return [key for key in keys if len({setting.get(key) for setting in settings}) > 1]


def labels(settings: Sequence[Setting], named: Collection[str] = ()) -> list[str]:
    """Return a label for each setting; labels are equal if and only if settings are.

    A label has the options that differ and are `named` (on the command line), and others only
    where they are needed to distinguish settings. If there are several such options, values that
    most settings have are left out; a setting with all of these values is called `base`.
    """
    keys = _distinguishing(settings, named)
    if not keys:
        return [""] * len(settings)
    names = {key: _short(key, keys) for key in keys}
    texts = [{key: setting.get(key, OFF) for key in keys} for setting in settings]
    usual = {key: Counter(text[key] for text in texts).most_common(1)[0][0] for key in keys}
    return [_label(text, names, {} if len(keys) == 1 else usual) for text in texts]


def natural_order(label: str) -> tuple[bool, list[tuple[str, float]]]:
    """Return a sort key: the base first, numbers by value (ratio=5 before ratio=10)."""
    pieces = re.findall(r"([^\d]*)(\d+(?:\.\d+)?)?", label)
    return label != BASE, [(text, float(number or 0)) for text, number in pieces]


def all_differences(settings: Sequence[Setting]) -> list[str]:
    """Return for each setting its values of all options in which settings differ."""
    keys = differing(settings)
    return [", ".join(f"{key}={one.get(key, OFF)}" for key in keys) for one in settings]


def _distinguishing(settings: Sequence[Setting], named: Collection[str]) -> list[str]:
    found = differing(settings)
    keys: list[str] = []
    for key in found:
        if key in named and not any(_repeats(key, other, settings) for other in keys):
            keys.append(key)
    for key in found:
        if key not in keys and _kinds(settings, [*keys, key]) > _kinds(settings, keys):
            keys.append(key)
    return keys


def _repeats(key: str, other: str, settings: Sequence[Setting]) -> bool:
    """Return whether an option of a stage used twice has the values of its first use."""
    if key.partition(".")[2] != other.partition(".")[2]:
        return False
    return all(key not in one or one[key] == one.get(other) for one in settings)


def _kinds(settings: Sequence[Setting], keys: Sequence[str]) -> int:
    return len({tuple(setting.get(key) for key in keys) for setting in settings})


def _label(texts: Mapping[str, str], names: Mapping[str, str], usual: Mapping[str, str]) -> str:
    shown = [(texts[key], names[key]) for key in texts if texts[key] != usual.get(key)]
    if not shown:
        return BASE
    # Options of one value share it: soft=hidden=attention=0.
    return ", ".join(
        "=".join([*(name for _, name in group), value])
        for value, group in groupby(shown, key=lambda pair: pair[0])
    )


def _short(key: str, keys: Sequence[str]) -> str:
    """Return the shortest unique end of a dotted name."""
    parts = key.split(".")
    for start in range(len(parts) - 1, 0, -1):
        end = ".".join(parts[start:])
        if sum(f".{other}".endswith(f".{end}") for other in keys) == 1:
            return end
    return key
