"""The command line: `quala VERB`; each verb's module is imported on use."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    try:
        from quala.cli import entry
    except KeyboardInterrupt:  # before what tells of it is imported
        sys.stderr.write("error: Interrupted.\n")
        return 130
    return entry.main(arguments)
