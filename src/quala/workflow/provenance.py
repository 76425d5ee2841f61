"""Where a result comes from: code, versions and hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from quala.runtime.hardware import cpu

INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
)
LARGEST_DIFF = 2_000_000


@dataclass(frozen=True)
class Code:
    """The state of the git repository that holds a person's code, if there is one."""

    commit: str | None
    dirty: bool
    diff: str


def code_state(script: Path) -> Code:
    """Return the state of the repository around `script`, or around here for an installed one."""
    folder = Path.cwd() if "site-packages" in script.parts else script.parent
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return Code(None, dirty=False, diff="")
    diff = _git(folder, "diff", "HEAD") or ""
    status = _git(folder, "status", "--porcelain") or ""
    return Code(commit.strip(), dirty=bool(status.strip()), diff=diff[:LARGEST_DIFF])


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def versions() -> dict[str, str]:
    """Return the version of every installed package."""
    found = {item.name: item.version for item in importlib.metadata.distributions()}
    return dict(sorted(found.items(), key=lambda pair: pair[0].lower()))


def hardware() -> dict[str, Any]:
    """Return processor, memory, accelerators and threads of this machine."""
    model, flags = cpu()
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu": model,
        "cores": os.cpu_count(),
        "physical_cores": psutil.cpu_count(logical=False),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        **_torch(),
    }


def _torch() -> dict[str, Any]:
    # Only looked at where a stage has imported it already: planning does without.
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    cuda = torch.cuda.is_available()
    return {
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if cuda else None,
    }
