"""Which processor this is, and which integer instructions it has."""

from __future__ import annotations

import platform
from pathlib import Path

INTEGER = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2")


def processor() -> dict[str, str]:
    """Return the processor's name and the fastest integer instructions that it has.

    `instructions` is one of amx_int8, avx512_vnni, avx_vnni, avx512f, avx2, or `none`. Without
    VNNI or AMX some runtimes saturate int8 sums.
    """
    facts: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    found = next((name for name in INTEGER if name in flags), "none")
    return {
        "name": facts.get("model name", platform.processor() or platform.machine()),
        "instructions": found,
    }


def saturates(instructions: str) -> bool:
    """Say whether products of uint8 and int8 may saturate on such a processor."""
    return instructions in ("avx512f", "avx2")
