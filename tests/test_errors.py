"""Errors as one sentence and an exit code."""

from __future__ import annotations

import errno
import os
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


def test_sigterm_has_its_code_and_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    assert guarded(stop) == 143
    assert capsys.readouterr().err == "error: Terminated; the same command goes on from here.\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_child_ends_by_sigterm_without_a_word() -> None:
    code = (
        "import multiprocessing as m, sys, time\n"
        "from quala.errors import guarded\n"
        "def work():\n"
        "    child = m.get_context('fork').Process(target=time.sleep, args=(60,))\n"
        "    child.start(); time.sleep(0.3); child.terminate(); child.join(20)\n"
        "    return -child.exitcode\n"
        "sys.exit(guarded(work))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (signal.SIGTERM, "")
