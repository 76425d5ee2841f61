"""All that the golden tests take from inside quala; where a module moves, only this file follows.

Everything else goes through the command line, `quala.load`, `quala.workflow` and MLflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from quala.cli import VERBS, main
from quala.data.spec import DataSpec
from quala.lengths import LengthConfig
from quala.stages.checkpoint import open_checkpoint

__all__ = ["VERBS", "DataSpec", "LengthConfig", "main", "open_checkpoint", "settled_at_once"]


@contextmanager
def settled_at_once() -> Iterator[None]:
    """Leave out the wait for rivals and the syncing of journals; print as wide as to a pipe."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("COLUMNS", "140")
        patched.setenv("NO_COLOR", "1")
        patched.setattr("quala.workflow.lease.SECONDS_TO_SETTLE", 0.0)
        patched.setattr("os.fsync", lambda descriptor: None)
        yield
