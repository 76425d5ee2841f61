"""Provenance of a run: its code, package versions, hardware and configuration."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from quala.redact import recorded
from quala.runtime.hardware import cpu

log = logging.getLogger(__name__)

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
"""Bytes of a diff that are kept."""
SECONDS_FOR_GIT = 10.0
"""For all that is asked of git, a guess: in a folder of a million files it takes longer."""


@dataclass(frozen=True)
class Code:
    """State of the git repository around a workflow script; `commit` is None without one.

    `dirty` is None where git did not say in time. `diff` is its SHA-256, empty without changes of
    tracked files, and `text` its beginning.
    """

    commit: str | None = None
    dirty: bool | None = False
    diff: str = ""
    text: str = ""


def code_state(script: Path) -> Code:
    """Return the state of the repository around `script`, or around here for an installed one.

    Nothing that the repository names is run, such as filters, hooks and helpers: git compares the
    files in a folder of its own, with an empty configuration, that borrows objects and index.
    """
    start = (Path.cwd() if "site-packages" in script.parts else script.parent).absolute()
    top = next((one for one in (start, *start.parents) if (one / ".git").exists()), None)
    if top is None:
        return Code()
    git = _Git(top)
    # This reads the repository's configuration, and nothing in it is run for that.
    names = (f"--git-path {name}" for name in ("objects", "index", "info/exclude"))
    asked = ["rev-parse", "--show-toplevel", "--show-object-format", *" ".join(names).split()]
    said = git.read("-c", "safe.bareRepository=explicit", *asked, "HEAD").decode(errors="replace")
    found = said.split("\n")
    if git.failed or len(found) < 6 or Path(found[0]).resolve() != top.resolve():
        return Code()
    kind, objects, index, excluded, commit = found[1:6]
    with tempfile.TemporaryDirectory(prefix="quala-git-") as folder:
        own = _empty_repository(Path(folder), kind, commit, top / excluded)
        alone = _Git(top, git.deadline, {"GIT_CONFIG_NOSYSTEM": "1",
            "GIT_DIR": str(own), "GIT_WORK_TREE": str(top), "GIT_INDEX_FILE": str(top / index),
            "GIT_OBJECT_DIRECTORY": str(top / objects), "GIT_CONFIG_GLOBAL": os.devnull,
        })  # fmt: skip
        skipped = "--ignore-submodules=all"
        plain = ("--no-ext-diff", "--no-textconv", "--no-color", "--full-index", skipped)
        status = alone.read("status", "--porcelain", skipped, most=1)
        hashed = hashlib.sha256()
        diff = alone.read("diff", *plain, commit, most=LARGEST_DIFF, hashed=hashed)
    if alone.failed:
        log.warning(
            "The state of the repository %s is not known: git failed, or took more than %.0f s.",
            top,
            SECONDS_FOR_GIT,
        )
        return Code(commit, dirty=None)
    text = diff.decode(errors="replace")
    return Code(commit, bool(status), hashed.hexdigest() if diff else "", text)


def _empty_repository(folder: Path, kind: str, commit: str, excluded: Path) -> Path:
    """Make a git folder without a configuration, at `commit`, with hashes of `kind`."""
    for name in ("objects", "refs", "info"):
        (folder / name).mkdir()
    (folder / "HEAD").write_text(f"{commit}\n")
    version = "repositoryformatversion = 1\n[extensions]\nobjectFormat = "
    (folder / "config").write_text(f"[core]\n{version}{kind}\n")
    if excluded.is_file():
        shutil.copyfile(excluded, folder / "info" / "exclude")
    return folder


@dataclass
class _Git:
    """Calls of git in a folder, all within one time limit, without variables that steer it."""

    folder: Path
    deadline: float = field(default_factory=lambda: time.monotonic() + SECONDS_FOR_GIT)
    variables: Mapping[str, str] = field(default_factory=dict)
    failed: bool = False

    def read(self, *words: str, most: int = LARGEST_DIFF, hashed: Any = None) -> bytes:
        """Return the first `most` bytes of what git says; the rest is hashed or not waited for."""
        calm = {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        options = ("--no-pager", "-c", "core.fsmonitor=false", "-c", "diff.autoRefreshIndex=false")
        left = self.deadline - time.monotonic()
        if left <= 0:
            self.failed = True
            return b""
        try:
            process = subprocess.Popen(
                ["git", *options, "-C", str(self.folder), *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**kept, **calm, **self.variables},
            )
        except OSError:
            self.failed = True
            return b""
        late = threading.Timer(left, process.kill)
        late.start()
        found, cut = b"", False
        with process:
            assert process.stdout is not None  # a pipe
            while part := process.stdout.read(1 << 16):
                found += part[: most - len(found)]
                if hashed is not None:
                    hashed.update(part)
                elif len(found) >= most:
                    cut = True
                    process.kill()
                    break
        late.cancel()
        self.failed |= process.returncode != 0 and not cut
        return found


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


_PLACE = re.compile(
    r"(?<![\w/:.$}-])(?:~[\w.-]*|[a-z][\w+.]*:///?)?/(?:[^/'\",\]}=]+/)*(?=[^/\s])"
)
"""The folders of an absolute path."""


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
    diff: bool = False
    """Whether the diff is stored, which may hold a key that was never committed."""

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
            "quala.dirty": self._changes(unknown="unknown", dirty="true", clean="false"),
            **({"mlflow.quala.diff": self.code.diff} if self.code.diff else {}),
            "quala.seed": str(self.seed),
            "mlflow.quala.data": self.data,
            "quala.overrides": " ".join(self.overrides) or "-",
        }

    def _changes(self, *, unknown: str, dirty: str, clean: str) -> str:
        return unknown if self.code.dirty is None else dirty if self.code.dirty else clean

    def summary(self, workflow: str, run: str) -> dict[str, str]:
        """Return the provenance that reports and exports show, by its label.

        It names no folders, host or user: others read it too.
        """
        machine = hardware()
        threads = machine.get("torch_threads", machine["cores"])
        processor = " ".join([f"{machine['cpu']}, {threads} threads,", *machine["instructions"]])
        changes = self._changes(unknown=", changes unknown", dirty=" with changes", clean="")
        words = [_PLACE.sub(".../", word) for word in recorded(list(self.overrides))]
        return {
            "command": shlex.join(["quala", "run", workflow, *words]),
            "run": run,
            "seed": str(self.seed),
            "data": self.data[:16],
            "commit": f"{self.code.commit or 'none'}{changes}",
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
        if self.diff and self.code.text:
            texts["provenance/dirty.diff"] = self.code.text
        return texts
