"""The processor, its integer instructions, and what else it does during a timing."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from quala.errors import QualaError

INTEGER = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2")


def processor() -> dict[str, str]:
    """Return the processor's name and the fastest integer instructions that it has.

    `instructions` is one of amx_int8, avx512_vnni, avx_vnni, avx512f, avx2, or `none`. Without
    VNNI or AMX some runtimes saturate int8 sums.
    """
    name, flags = cpu()
    return {
        "name": name,
        "instructions": next((each for each in INTEGER if each in flags), "none"),
    }


@cache
def cpu() -> tuple[str, frozenset[str]]:
    """Return the name of this processor and the instruction sets that the system names."""
    info = Path("/proc/cpuinfo")
    facts: dict[str, str] = {}
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    flags = facts.get("flags") or facts.get("Features") or ""
    name = facts.get("model name") or platform.processor() or platform.machine()
    return name, frozenset(flags.split())


def saturates(instructions: str) -> bool:
    """Return whether products of uint8 and int8 may saturate with these instructions."""
    return instructions in ("avx512f", "avx2")


RUNTIMES = ("onnxruntime", "openvino")
"""Names of the runtimes that an export runs in; importing them takes long."""
MOST_THREADS = max(64, 4 * (os.cpu_count() or 1))


def check_threads(threads: object) -> None:
    """Raise QualaError unless a runtime may have so many threads: 4 for each core, or 64."""
    if not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise QualaError(
            f"`threads` must be at least 1 and at most {MOST_THREADS}, got {threads!r}."
        )


BUSY = "†"
"""Marks times of a busy machine in tables."""
BUSY_SHARE = 0.2
"""Share of the cores that other programs may take before times are marked. A guess."""
UNSTEADY = 0.15
"""Difference of repeated timings before times are marked; idle machines stay below. A guess."""
SHORTEST = 0.3
"""Seconds: the system counts a processor's work in steps of 0.01 s."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The machine during a timing.

    `others` is the mean number of cores that other programs kept busy, None where the timing was
    too short to tell. `spread` is by how much timings of the same inputs at two moments differ.
    """

    others: float | None
    cores: int
    spread: float

    @property
    def busy(self) -> bool:
        """Whether the times would probably be others on an idle machine."""
        return (self.others or 0.0) > BUSY_SHARE * self.cores or self.spread > UNSTEADY

    def __str__(self) -> str:
        taken = f"others took {self.others:.1f} of {self.cores} cores, " if self.others else ""
        return f"{taken}repeated timings differ by {100 * self.spread:.0f} %"

    @property
    def note(self) -> str:
        """A sentence for a reader of the times, empty for an idle machine."""
        return f"Measured while the machine was busy: {self}." if self.busy else ""


class Watch:
    """Count the processor time that other programs take from now on."""

    def __init__(self) -> None:
        self._start = _readings()

    def conditions(self, spread: float) -> Conditions:
        """Return the conditions since the watch was made."""
        seconds, all_work, own = (
            now - before for now, before in zip(_readings(), self._start, strict=True)
        )
        others = max(0.0, all_work - own) / seconds if seconds >= SHORTEST else None
        return Conditions(others, os.cpu_count() or 1, spread)


def _readings() -> tuple[float, float, float]:
    """Return seconds: of the clock, of work of all processors, of this process's work."""
    import psutil

    times = psutil.cpu_times()
    names = ("user", "nice", "system", "irq", "softirq", "steal")  # some systems lack some
    all_work = sum(getattr(times, name, 0.0) for name in names)
    return time.monotonic(), all_work, time.process_time()
