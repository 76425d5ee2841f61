"""Where workflows and configs are: inside an installed package, or beside it in a checkout."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import quala
from quala.errors import QualaError, unknown
from quala.workflow.script import Workflow


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
