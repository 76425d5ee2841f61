"""Errors as one sentence and an exit code."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quala.errors import QualaError, guarded, noted


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


@pytest.mark.parametrize(
    ("number", "code", "first"),
    [(2, 130, "Interrupted"), (15, 143, "Terminated"), (1, 129, "The terminal was closed")],
)
def test_each_signal_has_its_code_and_a_sentence(number: int, code: int, first: str) -> None:
    found = ended(f"os.kill(os.getpid(), {number}); time.sleep(60)")
    assert found == (code, f"error: {first}; the same command goes on from here.\n")


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert ended("os.kill(os.getpid(), signal.SIGHUP); return 0") == (0, "")
    finally:
        signal.signal(signal.SIGHUP, before)


CLEANING = (
    "try: os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)\n"
    "    finally: {}; sys.stderr.write('cleaned\\n')"
)


def test_a_second_signal_does_not_stop_the_cleaning_up() -> None:
    code, said = ended(CLEANING.format("os.kill(os.getpid(), signal.SIGINT)"))
    assert code == 143
    assert said.splitlines() == [
        "Cleaning up; a third signal ends this at once.",
        "cleaned",
        "error: Terminated; the same command goes on from here.",
    ]


def test_a_third_signal_ends_at_once() -> None:
    code, said = ended(CLEANING.format("[os.kill(os.getpid(), 2) for _ in '12']"))
    assert code == 143
    assert "cleaned" not in said
    assert "Traceback" not in said


def test_a_signal_that_a_library_turns_into_an_error_is_a_signal() -> None:
    work = "try: os.kill(os.getpid(), 2)\n    except BaseException: raise ImportError('numpy')"
    assert ended(work) == (130, "error: Interrupted; the same command goes on from here.\n")


def test_a_signal_in_a_destructor_is_not_lost() -> None:
    work = (
        "Lost = type('Lost', (), {'__del__': lambda _: os.kill(os.getpid(), 15)})\n"
        "    Lost(); time.sleep(60)"
    )
    assert ended(work) == (143, "error: Terminated; the same command goes on from here.\n")


def raising(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (QualaError("sentence"), 2, "sentence."),
        (QualaError("Is it?"), 2, "Is it?"),
        (OSError(errno.ENOSPC, "reason", "file"), 2, "The disk is full: file."),
        (KeyboardInterrupt(), 130, "Interrupted; the same command goes on from here."),
    ],
)
def test_json_has_the_error_and_its_facts(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, told: str
) -> None:
    noted(error, run_id="abc")
    assert guarded(lambda: raising(error), as_json=True) == code
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": told, "exit_code": code, "run_id": "abc"}
    assert err == f"error: {told}\n"


def test_json_has_an_unexpected_error_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError):
        guarded(lambda: raising(RuntimeError("told to fail")), as_json=True)
    out = json.loads(capsys.readouterr().out)
    assert out == {"error": "RuntimeError: told to fail", "exit_code": 1}


def test_json_has_what_argparse_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    from quala.cli.entry import main

    assert main(["cost", "--preset", "bert-base", "--json", "--sequence-length", "many"]) == 2
    out = json.loads(capsys.readouterr().out)
    assert out["exit_code"] == 2
    assert "many" in out["error"]


def test_a_user_without_a_name_or_a_home_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 123_456)
    assert guarded(lambda: len(str(Path.home()))) == 1
