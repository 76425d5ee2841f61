"""The comparison of made-up runs as `quala report --compare --json` prints it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from golden.stored import Stored
from tracked import Filled, Tracked

FILE = Path(__file__).parent / "compare.json"
PASSING = {"started", "commit", "dirty"}
"""Keys whose values are of the moment."""
PLACES = {"machine", "processor"}
"""Keys that name the hardware; the notes repeat it in sentences."""


def compared(folder: Path) -> Any:
    """Fill the store in `folder` with runs and return their comparison, ids by what they are."""
    filled = Filled.of(Tracked(folder))
    store = Stored(folder, [])
    store.uri = filled.tracked.uri
    return normal(store.report("--compare"), filled.runs)


def normal(found: Any, runs: dict[str, str]) -> Any:
    """Return a comparison without run ids, dates, hardware, and times that were really taken."""
    text = json.dumps(_steady(found))
    for place in sorted(_places(found), key=len, reverse=True):
        text = text.replace(json.dumps(place)[1:-1], "HARDWARE")
    for name, run in runs.items():
        text = text.replace(run, name).replace(run[:8], name)
    return json.loads(text)


def _steady(value: Any) -> Any:
    if isinstance(value, list):
        return [_steady(item) for item in value]
    if not isinstance(value, dict):
        return value
    # A search of these runs makes no figures up: its time is what it really took.
    gone = PASSING | ({"seconds"} if value.get("stage") == "search" else set())
    return {key: "-" if key in gone else _steady(item) for key, item in value.items()}


def _places(value: Any) -> set[str]:
    if isinstance(value, list):
        return {place for item in value for place in _places(item)}
    if not isinstance(value, dict):
        return set()
    own = {item for key, item in value.items() if key in PLACES and isinstance(item, str)}
    return own.union(*(_places(item) for item in value.values()))


def write(folder: Path) -> None:
    """Write the golden file."""
    FILE.write_text(json.dumps(compared(folder), indent=1) + "\n")
