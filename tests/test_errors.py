"""Errors as one sentence and an exit code."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys

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


def ended(work: str) -> tuple[int, str]:
    """Return the exit code and the errors of a process that does `work` as a command does."""
    code = (
        "import multiprocessing, os, signal, sys, time\n"
        "from quala.errors import guarded\n"
        f"def work():\n    {work}\n"
        "sys.exit(guarded(work))\n"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_sigterm_has_its_code_and_a_sentence() -> None:
    code, said = ended("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)")
    assert (code, said) == (143, "error: Terminated; the same command goes on from here.\n")


def test_a_child_ends_by_sigterm_without_a_word() -> None:
    child = "multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))"
    work = (
        f"p = {child}; p.start(); time.sleep(0.3); p.terminate(); p.join(20); return -p.exitcode"
    )
    assert ended(work) == (signal.SIGTERM, "")
