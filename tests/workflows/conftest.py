"""What the end-to-end tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def fast() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("quala.workflow.lease.SECONDS_TO_SETTLE", 0.05)
        patched.setattr("os.fsync", lambda descriptor: None)
        yield
