"""Workflow scripts: what a script declares, and where it is found by name or path."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import quala
from quala.errors import QualaError, unknown
from quala.plugins import WORKFLOWS, is_path

if TYPE_CHECKING:
    from quala.stage import Stage
    from quala.workflow.flow import Flow

LOADED = "quala_workflow_"
"""Prefix of the module name of a script that was loaded from its path."""


@dataclass(frozen=True)
class WorkflowSpec:
    """What a script declares: a name, a function of a `Flow`, its stages and configuration."""

    name: str
    function: Callable[[Flow], object]
    script: Path
    declared: Mapping[str, Stage] | Sequence[str] | None = None
    """Stages by name, or the names of quala's stages that it runs, None for any of them."""
    own_conf: Path | None = None

    def __call__(self, flow: Flow) -> None:
        """Call the stages in order, for planning or for real."""
        self.function(flow)

    @property
    def stages(self) -> Mapping[str, Stage]:
        """The stages that this workflow may run, by name."""
        known = self.known_stages
        names = known if self.declared is None else self.declared
        for name in names:
            if name not in known:
                raise unknown(f"stage of the workflow `{self.name}`", name, known)
        return {name: known[name] for name in names}

    @property
    def known_stages(self) -> Mapping[str, Stage]:
        """The stages for which its configuration may have values, run by it or not."""
        if isinstance(self.declared, Mapping):
            return self.declared
        from quala.stages import STAGES

        return STAGES

    @property
    def conf(self) -> Path:
        """The folder with `config.yaml` and its groups."""
        return self.own_conf or conf_folder()

    @property
    def experiments(self) -> list[str]:
        """Names of the experiments in this workflow's own folder, `<name>/demo` and so on."""
        return choices(self.conf / "experiment" / self.name, prefix=f"{self.name}/")

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def place(self) -> str:
        """What `find_workflow` finds it by in another process: a path, or a dotted name."""
        module = self.function.__module__
        if module == "__main__" or module.startswith(LOADED):
            return str(self.script)
        return f"{module}.{self.function.__qualname__}"

    @property
    def called(self) -> str:
        """What a command names it by: a name that `find_workflow` knows, else its place."""
        if workflow_scripts().get(self.name) == self.script or self.name in WORKFLOWS.names:
            return self.name
        here = os.path.relpath(self.place) if self.place.endswith(".py") else self.place
        return self.place if here.startswith("..") else here


def choices(folder: Path, *, prefix: str = "") -> list[str]:
    """Return the options of a folder of configurations; `_name.yaml` is a part, not an option."""
    files = sorted(folder.glob("*.yaml"))
    return [f"{prefix}{file.stem}" for file in files if not file.stem.startswith("_")]


def conf_folder() -> Path:
    """Return the folder with quala's own `config.yaml` and its groups."""
    return _folder("conf")


def _folder(name: str) -> Path:
    package = Path(quala.__file__).resolve().parent
    for folder in (package / name, package.parents[1] / name):
        if folder.is_dir():
            return folder
    raise QualaError(f"The folder `{name}` of quala is missing: install the package again.")


def workflow_scripts() -> dict[str, Path]:
    """Return the scripts that come with quala, by name."""
    scripts = sorted(_folder("workflows").glob("*.py"))
    return {path.stem: path for path in scripts if not path.stem.startswith("_")}


def workflow_names() -> list[str]:
    """Return the names that `find_workflow` knows: quala's own, then those of other packages."""
    own = workflow_scripts()
    return [*own, *(name for name in WORKFLOWS.names if name not in own)]


def find_workflow(name: str) -> WorkflowSpec:
    """Return a workflow by its name, by the path of a script, or by a dotted name.

    Raises:
        QualaError: if there is none.
    """
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise QualaError(f"There is no workflow script at `{name}`.")
        return load_workflow(path.resolve())
    scripts = workflow_scripts()
    if name in scripts:
        return load_workflow(scripts[name])
    if name not in WORKFLOWS.names and not is_path(name):
        raise unknown("workflow", name, workflow_names())
    found: Any = WORKFLOWS.find(name)
    if not isinstance(found, WorkflowSpec):
        raise QualaError(f"`{name}` must be a function with `@workflow`, got {found!r}.")
    return found


def load_workflow(script: Path) -> WorkflowSpec:
    """Import a script and return the one workflow that it declares."""
    module_name = f"{LOADED}{script.stem}"
    spec = importlib.util.spec_from_file_location(module_name, script)
    if spec is None or spec.loader is None:
        raise QualaError(f"`{script}` is not a Python script.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    found = [item for item in vars(module).values() if isinstance(item, WorkflowSpec)]
    if len(found) != 1:
        raise QualaError(f"`{script}` must declare one workflow, it declares {len(found)}.")
    return found[0]
