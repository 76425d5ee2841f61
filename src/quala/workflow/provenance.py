"""Provenance of a run: its code, package versions, hardware and configuration."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
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
    """State of the git repository around a workflow script; `commit` is None without one."""

    commit: str | None
    dirty: bool
    diff: str


def code_state(script: Path) -> Code:
    """Return the state of the repository around `script`, or around here for an installed one."""
    folder = Path.cwd() if "site-packages" in script.parts else script.parent
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return Code(None, dirty=False, diff="")
    diff = _git(folder, "diff", "--no-ext-diff", "--no-textconv", "HEAD") or ""
    status = _git(folder, "status", "--porcelain") or ""
    return Code(commit.strip(), dirty=bool(status.strip()), diff=diff[:LARGEST_DIFF])


def _git(folder: Path, *arguments: str) -> str | None:
    # Nothing that the folder's own settings name is run.
    command = ["git", "--no-pager", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
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
    # Looked up only if a stage has imported torch already: planning does not import it.
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    cuda = torch.cuda.is_available()
    return {
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if cuda else None,
    }


@dataclass(frozen=True)
class Record:
    """The provenance of one command."""

    config: str
    """The resolved configuration as YAML."""
    overrides: Sequence[str]
    seed: int
    data: str
    """Fingerprint of the data."""
    code: Code

    @cached_property
    def packages(self) -> str:
        """Versions of all installed packages as JSON; takes half a second to collect."""
        return json.dumps(versions(), indent=1)

    @property
    def tags(self) -> dict[str, str]:
        """The short parts, as tags of a run."""
        commit = {"mlflow.source.git.commit": self.code.commit} if self.code.commit else {}
        return {
            **commit,
            "quala.dirty": str(self.code.dirty).lower(),
            "quala.seed": str(self.seed),
            "quala.data": self.data,
            "quala.overrides": " ".join(self.overrides) or "-",
        }

    def summary(self, workflow: str, run: str) -> dict[str, str]:
        """Return the provenance that a report shows, by its label."""
        machine = hardware()
        threads = machine.get("torch_threads", machine["cores"])
        processor = " ".join([f"{machine['cpu']}, {threads} threads,", *machine["instructions"]])
        commit = f"{self.code.commit or 'none'}{' with changes' if self.code.dirty else ''}"
        return {
            "command": shlex.join(["quala", "run", workflow, *self.overrides]),
            "run": run,
            "seed": str(self.seed),
            "data": self.data[:16],
            "commit": commit,
            "hardware": processor,
            "date": datetime.now(UTC).date().isoformat(),
        }

    def texts(self) -> dict[str, str]:
        """Return the long parts by artifact path."""
        texts = {
            "provenance/config.yaml": self.config,
            "provenance/overrides.txt": "\n".join(self.overrides),
            "provenance/versions.json": self.packages,
            "provenance/hardware.json": json.dumps(hardware(), indent=1),
        }
        if self.code.diff:
            texts["provenance/dirty.diff"] = self.code.diff
        return texts
