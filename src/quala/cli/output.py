"""Output of commands: tables or JSON on standard output, warnings on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text


def write_json(content: Mapping[str, Any]) -> None:
    """Write one JSON object to standard output."""
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


def show(*items: RenderableType) -> None:
    """Write tables and lines, no text of theirs as markup; in a pipe they are not folded."""
    width = None if sys.stdout.isatty() else 160
    console = Console(width=width, markup=False, emoji=False)
    for item in items:
        console.print(item)


def warn(text: str) -> None:
    """Write one line to standard error."""
    line = Text.assemble(("warning:", "yellow"), " ", text)
    Console(stderr=True).print(line, soft_wrap=True)
