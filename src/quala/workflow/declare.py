"""`@workflow`: turns a function of a `Flow` into a command."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quala.errors import decoded, guarded
from quala.stage import Stage
from quala.workflow.flow import Flow
from quala.workflow.script import WorkflowSpec


@dataclass(frozen=True)
class Workflow(WorkflowSpec):
    """A workflow that can be run from its script, `python my.py seed=1`."""

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Run the workflow with Hydra's command line and leave with its exit code."""
        given = sys.argv[1:] if arguments is None else list(arguments)

        def command() -> int:
            # Hydra and rich take a while to import; a script that is only loaded needs neither.
            from quala.workflow.launch import run

            return run(self, [decoded(word) for word in given])

        sys.exit(guarded(command, as_json="--json" in given))


def workflow(
    name: str,
    *,
    stages: Mapping[str, Stage] | Sequence[str] | None = None,
    conf: Path | None = None,
) -> Callable[[Callable[[Flow], object]], Workflow]:
    """Declare a workflow.

    `stages` names the stages of quala that it runs, or maps names to stages of your own
    (`{**STAGES, ...}` adds to quala's); without it, any stage of quala may be run. `conf` replaces
    the folder of the configuration.
    """

    def declare(function: Callable[[Flow], object]) -> Workflow:
        script = Path(inspect.getfile(function)).resolve()
        return Workflow(name, function, script, stages, conf)

    return declare
