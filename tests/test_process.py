"""A process is alive, dead, or another one with its id."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from quala.process import Process, user_name


def test_this_process_lives_here() -> None:
    mine = Process.this()
    assert mine.is_local
    assert mine.lives()


def test_an_id_that_was_given_to_another_process_is_dead() -> None:
    mine = Process.this()
    assert not replace(mine, started=mine.started - 1000).lives()


def test_a_process_id_that_is_free_is_dead() -> None:
    assert not replace(Process.this(), pid=max(psutil.pids()) + 100_000).lives()


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    started = psutil.Process(child.pid).create_time()
    limit = time.monotonic() + 30
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < limit
        time.sleep(0.01)
    assert not Process(Process.this().host, child.pid, started).lives()
    child.wait()


def test_another_host_is_not_this_one() -> None:
    assert not replace(Process.this(), host="elsewhere").is_local


def test_a_user_without_a_name_is_called_by_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 123_456)
    assert user_name() == "123456"
