"""`@workflow`: what turns a function of a `Flow` into a command."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import quala
from quala.errors import QualaError, unknown
from quala.stage import Stage
from quala.workflow.flow import Flow


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
        from quala.cli.entry import guarded
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


def _folder(name: str) -> Path:
    package = Path(quala.__file__).resolve().parent
    for folder in (package / name, package.parents[1] / name):
        if folder.is_dir():
            return folder
    raise QualaError(f"The folder `{name}` of quala is missing: install the package again.")


def conf_folder() -> Path:
    """Return the folder with `config.yaml` and its groups."""
    return _folder("conf")


def workflow_scripts() -> dict[str, Path]:
    """Return the scripts that come with quala, by name."""
    scripts = sorted(_folder("workflows").glob("*.py"))
    return {path.stem: path for path in scripts if not path.stem.startswith("_")}


def find_workflow(name: str) -> Workflow:
    """Return a workflow by name, or by the path of a script; raise QualaError if there is none."""
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise QualaError(f"There is no workflow script at `{name}`.")
        return load_workflow(path.resolve())
    scripts = workflow_scripts()
    if name not in scripts:
        raise unknown("workflow", name, scripts)
    return load_workflow(scripts[name])


def load_workflow(script: Path) -> Workflow:
    """Import a script and return the one workflow that it declares."""
    module_name = f"quala_workflow_{script.stem}"
    spec = importlib.util.spec_from_file_location(module_name, script)
    if spec is None or spec.loader is None:
        raise QualaError(f"`{script}` is not a Python script.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    found = [item for item in vars(module).values() if isinstance(item, Workflow)]
    if len(found) != 1:
        raise QualaError(f"`{script}` must declare one workflow, it declares {len(found)}.")
    return found[0]
