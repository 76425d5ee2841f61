"""What every run carries beside its figures: configuration, seed, code, versions, hardware."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from quala.workflow.provenance import Code, code_state, hardware, versions


@dataclass(frozen=True)
class Record:
    """The provenance of one invocation."""

    config: str
    """The resolved configuration as YAML."""
    overrides: Sequence[str]
    seed: int
    data: str
    """Fingerprint of the data."""
    code: Code

    @classmethod
    def of(
        cls, script: Path, *, config: str, overrides: Sequence[str], seed: int, data: str
    ) -> Record:
        """Return the provenance of running `script` here and now."""
        return cls(config, tuple(overrides), seed, data, code_state(script))

    @cached_property
    def packages(self) -> str:
        """Versions of all installed packages as JSON; takes half a second to collect."""
        return json.dumps(versions(), indent=1)

    @property
    def tags(self) -> dict[str, str]:
        """The short parts, to filter by."""
        commit = {"mlflow.source.git.commit": self.code.commit} if self.code.commit else {}
        return {
            **commit,
            "quala.dirty": str(self.code.dirty).lower(),
            "quala.seed": str(self.seed),
            "quala.data": self.data,
            "quala.overrides": " ".join(self.overrides) or "-",
        }

    def summary(self, workflow: str, run: str) -> dict[str, str]:
        """Return the lines in which a report says where it comes from."""
        machine = hardware()
        threads = machine.get("torch_threads", machine["cores"])
        processor = " ".join([f"{machine['cpu']}, {threads} threads,", *machine["instructions"]])
        commit = f"{self.code.commit or 'none'}{' with changes' if self.code.dirty else ''}"
        return {
            "command": " ".join(["quala run", workflow, *self.overrides]),
            "run": run,
            "seed": str(self.seed),
            "data": self.data[:16],
            "commit": commit,
            "hardware": processor,
            "date": datetime.now(UTC).date().isoformat(),
        }

    def texts(self) -> dict[str, str]:
        """Return the long parts, as artifact path and content."""
        texts = {
            "provenance/config.yaml": self.config,
            "provenance/overrides.txt": "\n".join(self.overrides),
            "provenance/versions.json": self.packages,
            "provenance/hardware.json": json.dumps(hardware(), indent=1),
        }
        if self.code.diff:
            texts["provenance/dirty.diff"] = self.code.diff
        return texts
