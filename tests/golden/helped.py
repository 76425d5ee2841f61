"""What `quala --help` and the verbs' `--help` print."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from golden.use import VERBS, main

FOLDER = Path(__file__).parent / "help"


def helped(verb: str) -> str:
    """Return the help of a verb, of quala itself for an empty one, eighty columns wide."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(said):
        patched.setenv("COLUMNS", "80")
        patched.setenv("NO_COLOR", "1")
        try:
            code: int | str | None = main([verb, "--help"] if verb else ["--help"])
        except SystemExit as left:  # argparse leaves by itself
            code = left.code
    assert not code
    return said.getvalue()


def write() -> None:
    """Write the golden files."""
    FOLDER.mkdir(exist_ok=True)
    for verb in ("", *VERBS):
        (FOLDER / f"{verb or 'quala'}.txt").write_text(helped(verb))
