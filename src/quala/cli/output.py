"""Output of commands: tables or JSON on standard output, warnings on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from quala.errors import QualaError
from quala.redact import cell, console, json_text, redacted


def write_json(content: Mapping[str, Any], *, as_is: bool = False) -> None:
    """Write one JSON object to standard output, without secrets unless `as_is`."""
    text = json.dumps(content, indent=2) if as_is else json_text(content, indent=2)
    sys.stdout.write(text + "\n")


def write_text(text: str) -> None:
    """Write lines to standard output, without secrets."""
    sys.stdout.write(redacted(text))


def out_folder(folder: Path) -> Path:
    """Make the folder that `--out` names; raise QualaError where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QualaError(
            f"`--out` names a folder to write into, `{folder}` cannot be one: {error.strerror}."
        ) from error
    return folder


def show(*items: RenderableType) -> None:
    """Write tables and lines, no text of theirs as markup; in a pipe they are not folded."""
    out = console(None if sys.stdout.isatty() else 160)
    for item in items:
        out.print(cell(item) if isinstance(item, str | Text) else item)


def warn(text: str) -> None:
    """Write one line to standard error."""
    line = Text.assemble(("warning:", "yellow"), " ", cell(text))
    console(stderr=True).print(line, soft_wrap=True)
