"""Errors as one sentence and an exit code."""

from __future__ import annotations

import errno

import pytest

from quala.errors import QualaError, guarded


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_trouble_with_the_disk_is_one_sentence(
    capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def fail() -> int:
        raise OSError(number, "reason", "some/file")

    assert guarded(fail) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_debugging_shows_where_a_mistake_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise QualaError("sentence")

    monkeypatch.setenv("QUALA_DEBUG", "1")
    with pytest.raises(QualaError):
        guarded(fail)
