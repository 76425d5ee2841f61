"""The processor and its integer instructions."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

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
