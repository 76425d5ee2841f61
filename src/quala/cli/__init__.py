"""The command line: `quala VERB`; each verb's module is imported on use.

`main` is the entry point. There is one module a verb.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quala._lazy import lazy

if TYPE_CHECKING:
    from quala.cli.entry import main

__all__ = ["main"]

__getattr__ = lazy(
    __name__,
    {
        "quala.cli.entry": ["main"],
    },
)
