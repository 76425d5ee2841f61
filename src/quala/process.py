"""A process, told apart from a later one that has the same id."""

from __future__ import annotations

import getpass
import os
import platform
from dataclasses import dataclass

import psutil

CLOCK_SLACK = 2.0
"""Seconds by which two readings of one start time may differ: the system counts it from the boot
time, which moves when the clock is set."""


def user_name() -> str:
    """Return the user's name, or the number of one without a name, as in containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


@dataclass(frozen=True)
class Process:
    """A process by its host, its id there, and its start in seconds since 1970."""

    host: str
    pid: int
    started: float

    @classmethod
    def this(cls) -> Process:
        """Return this process."""
        return Process(platform.node(), os.getpid(), psutil.Process().create_time())

    @property
    def is_local(self) -> bool:
        """Whether the process belongs to this host; of another one `lives` says nothing."""
        return self.host == platform.node()

    def lives(self) -> bool:
        """Return whether the process still runs on this host; a zombie does not."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < CLOCK_SLACK
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
