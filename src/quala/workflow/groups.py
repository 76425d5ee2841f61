"""The groups of a workflow's configuration: their folders, their options, and a line on each."""

from __future__ import annotations

import importlib.util
import os
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from quala.errors import QualaError
from quala.workflow.script import WorkflowSpec, choices

CONFIG = "config"
"""The primary configuration of every workflow."""
EXPERIMENT = "experiment"
COLUMNS = 80
_FLAGS = {"--config-dir": "folder", "-cd": "folder", "--config-name": "name", "-cn": "name"}
_SEARCH = re.compile(r"\+*hydra\.searchpath=(.*)")


@dataclass(frozen=True)
class Where:
    """Where a command line has configurations of its own."""

    folder: str | None = None
    """That of `--config-dir`: its files come after those of the workflow."""
    name: str = CONFIG
    """The primary configuration, of `--config-name`."""

    @property
    def words(self) -> list[str]:
        """The options of the command line that say so."""
        given = {"--config-dir": self.folder, "--config-name": self.name}
        return [
            word
            for flag, value in given.items()
            if value not in (None, CONFIG)
            for word in (flag, str(value))
        ]


PLAIN = Where()
"""Of a command line that has none."""


def where_of(words: Sequence[str]) -> tuple[Where, list[str]]:
    """Take `--config-dir` and `--config-name` out of a command line; return the rest too.

    Raises QualaError for an option without a value, and for a folder that does not exist.
    """
    found, rest, todo = dict[str, str](), list[str](), iter(words)
    for word in todo:
        flag, given, value = word.partition("=")
        if flag not in _FLAGS:
            rest.append(word)
            continue
        taken = value if given else next(todo, "")
        if not taken:
            raise QualaError(f"`{flag}` needs a value.")
        found[_FLAGS[flag]] = taken
    if "folder" in found and not Path(folder := os.path.expanduser(found["folder"])).is_dir():
        raise QualaError(f"There is no folder `{folder}` for `--config-dir`.")
    if "folder" in found:
        found["folder"] = os.path.expanduser(found["folder"])
    return Where(**found), rest


def conf_folders(
    workflow: WorkflowSpec, where: Where = PLAIN, words: Sequence[str] = ()
) -> list[Path]:
    """Return the folders of configurations in the order in which Hydra looks for a file.

    They are the workflow's, that of `--config-dir`, and those of `hydra.searchpath`, which is an
    override among `words` or stands in the primary configuration. Raises QualaError for a place
    that does not exist.
    """
    folders = [workflow.conf, *([Path(where.folder)] if where.folder else [])]
    typed = [found[1] for word in words if (found := _SEARCH.fullmatch(word))]
    hydra = primary(folders, where.name).get("hydra")
    own = hydra.get("searchpath") if isinstance(hydra, dict) else None
    for place in typed[-1].strip("'\"[]").split(",") if typed else own or ():
        folders += _search_folders(str(place).strip("'\" "))
    return folders


def _search_folders(place: str) -> list[Path]:
    """Return the folders of a place of `hydra.searchpath`; Hydra would only warn of none."""
    scheme, _, rest = place.rpartition("://")
    if scheme != "pkg":
        folders, what = [one for one in (Path(rest),) if one.is_dir()], "folder"
    else:
        try:
            spec = importlib.util.find_spec(rest.replace("/", "."))
        except (ImportError, ValueError):
            spec = None
        places = (spec and spec.has_location and spec.submodule_search_locations) or ()
        folders, what = [Path(one) for one in places], "package with an `__init__.py`"
    if place and not folders:
        raise QualaError(f"There is no {what} for `{place}` of `hydra.searchpath`.")
    return folders


def primary(folders: Sequence[Path], name: str) -> Mapping[str, Any]:
    """Return the primary configuration as its file has it, empty where it cannot be read."""
    import yaml

    file = next((one for folder in folders if (one := folder / f"{name}.yaml").is_file()), None)
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8")) if file else None
    except (OSError, ValueError, yaml.YAMLError):
        found = None
    return found if isinstance(found, dict) else {}


def default_groups(folders: Sequence[Path], name: str = CONFIG) -> dict[str, str]:
    """Return the groups that a primary configuration takes an option of, each with the option."""
    entries = primary(folders, name).get("defaults")
    pairs = chain.from_iterable(one.items() for one in entries or () if isinstance(one, dict))
    return {str(group).rpartition(" ")[2]: str(option) for group, option in pairs}


def options_of(folders: Sequence[Path], group: str) -> dict[str, str]:
    """Return the options of a group, each with the line on it."""
    found = dict[str, str]()
    for folder in folders:
        for name in choices(folder / group):
            found.setdefault(name, summary_of(folder / group / f"{name}.yaml"))
    return found


def summary_of(file: Path) -> str:
    """Return the first comment line of a configuration, without its full stop."""
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                text = line.lstrip("# ").strip()
                if not line.startswith("#"):
                    break
                if text and not text.startswith("@package"):
                    return text.removesuffix(".")
    except OSError:
        pass
    return ""


def experiments_of(workflow: WorkflowSpec, folders: Sequence[Path]) -> dict[str, str]:
    """Return the experiments that a workflow may take, each with the line on it.

    A workflow with a folder of its own among quala's experiments takes only those of quala's.
    """
    own = options_of(folders, f"{EXPERIMENT}/{workflow.name}")
    shared = folders[1:] if workflow.experiments else folders
    return {f"{workflow.name}/{name}": text for name, text in own.items()} | options_of(
        shared, EXPERIMENT
    )


def added_groups(folders: Sequence[Path], defaults: Mapping[str, str]) -> dict[str, bool]:
    """Return the groups of which no option is taken by default, `+GROUP@KEY=NAME` adds one.

    The value says whether its files name their own place, by `@package`: then `+GROUP=NAME` does.
    """
    known = {group.partition("@")[0] for group in defaults} | {EXPERIMENT, "hydra"}
    names = {
        one.name for folder in folders if folder.is_dir() for one in folder.iterdir()
        if one.is_dir() and choices(one)
    }  # fmt: skip
    return {
        name: any(
            file.read_text(encoding="utf-8", errors="replace").startswith("# @package")
            for folder in folders
            for file in (folder / name).glob("*.yaml")
        )
        for name in sorted(names - known)
    }


def own_groups(workflow: WorkflowSpec, defaults: Mapping[str, str]) -> dict[str, str]:
    """Return the default groups but for Hydra's, the experiment, and stages of other workflows."""
    others = {f"stage/{name}" for name in workflow.known_stages.keys() - workflow.stages.keys()}
    return {
        group: option
        for group, option in defaults.items()
        if group not in others | {EXPERIMENT} and not group.startswith("hydra/")
    }


def workflow_help(workflow: WorkflowSpec, where: Where = PLAIN, words: Sequence[str] = ()) -> str:
    """Return what a workflow does: its stages, its experiments and its groups, a line on each."""
    folders = conf_folders(workflow, where, words)
    defaults = default_groups(folders, where.name)
    parts = {
        "stages:": {stage.name: stage.summary for stage in workflow.stages.values()},
        "experiments, experiment=NAME:": experiments_of(workflow, folders),
    }
    for group, option in own_groups(workflow, defaults).items():
        known = options_of(folders, group)
        parts[f"{group}=NAME{f' (default: {option})' if len(known) > 1 else ''}:"] = known
    for group, placed in added_groups(folders, defaults).items():
        parts[f"+{group}{'' if placed else '@KEY'}=NAME:"] = options_of(folders, group)
    listed = "\n".join(f"{title}\n{_columns(rows)}" for title, rows in parts.items() if rows)
    ending = (
        f"`stage.NAME.OPTION=VALUE` changes an option. `quala run {workflow.name} --help "
        "stage.NAME` explains the options of a stage, `--cfg job` prints all values, "
        "`--hydra-help` has Hydra's own options, and `quala run --help` explains overrides."
    )
    return (
        f"usage: quala run {workflow.name} [overrides] [-m] [--json]\n\n"
        f"{_filled(workflow.summary)}\n\n{listed}\n{_filled(ending)}\n"
    )


def _filled(text: str) -> str:
    return textwrap.fill(text, COLUMNS, break_on_hyphens=False)


def _columns(rows: Mapping[str, str]) -> str:
    """Return rows of a name and a text, the text folded to the width of a terminal."""
    width = max(map(len, rows), default=0)
    return "".join(f"{line}\n" for row in rows.items() for line in _folded(*row, width))


def _folded(left: str, right: str, width: int) -> Iterator[str]:
    start = f"  {left:<{width}}  "
    yield from textwrap.wrap(
        right, COLUMNS, initial_indent=start, subsequent_indent=" " * len(start)
    ) or [f"  {left}"]
