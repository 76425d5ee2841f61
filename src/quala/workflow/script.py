"""`@workflow`: what turns a function of a `Flow` into a command."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quala.workflow.flow import Flow
from quala.workflow.stage import Stage


@dataclass(frozen=True)
class Workflow:
    """A named workflow, its script and the stages it may use."""

    name: str
    function: Callable[[Flow], object]
    script: Path
    own_stages: Mapping[str, Stage] | None = None
    own_conf: Path | None = None

    def __call__(self, flow: Flow) -> None:
        """Name the stages in order, for planning or for real."""
        self.function(flow)

    @property
    def stages(self) -> Mapping[str, Stage]:
        """The stages that this workflow may use, by name."""
        if self.own_stages is not None:
            return self.own_stages
        from quala.stages import STAGES

        return STAGES

    @property
    def conf(self) -> Path:
        """The folder with `config.yaml` and its groups."""
        from quala.workflow.resources import conf_folder

        return self.own_conf or conf_folder()

    @property
    def experiments(self) -> list[str]:
        """Names of the experiments in this workflow's own folder, `<name>/demo` and so on."""
        folder = self.conf / "experiment" / self.name
        return sorted(f"{self.name}/{file.stem}" for file in folder.glob("*.yaml"))

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Run the workflow with Hydra's command line and leave with its exit code."""
        from quala.cli import guarded
        from quala.workflow.launch import run

        given = sys.argv[1:] if arguments is None else list(arguments)
        sys.exit(guarded(lambda: run(self, given)))


def workflow(
    name: str, *, stages: Mapping[str, Stage] | None = None, conf: Path | None = None
) -> Callable[[Callable[[Flow], object]], Workflow]:
    """Declare a workflow.

    `stages` replaces quala's own (`{**STAGES, ...}` adds to them), `conf` replaces the folder of
    the configuration.
    """

    def declare(function: Callable[[Flow], object]) -> Workflow:
        script = Path(inspect.getfile(function)).resolve()
        return Workflow(name, function, script, stages, conf)

    return declare
