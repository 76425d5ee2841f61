"""The options of a configuration by name: what each may be, and what its class says about it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import textwrap
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from quala.errors import unknown
from quala.workflow.groups import COLUMNS, where_of, workflow_help
from quala.workflow.script import WorkflowSpec
from quala.workflow.settings import FlowConfig, TrackingConfig

NULL = "null"
HELP = ("-h", "--help")


@dataclass(frozen=True)
class Option:
    """An option, or a mapping of options."""

    hint: Any
    metadata: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""
    """What its class says about it, in one line."""

    @property
    def kinds(self) -> list[Any]:
        """The types that it may have, without null."""
        return [one for one in _parts(self.hint) if one is not types.NoneType]

    @property
    def config(self) -> type[Any] | None:
        """The dataclass of the options inside, None for a value."""
        found: Any = next((one for one in self.kinds if dataclasses.is_dataclass(one)), None)
        return found  # type: ignore[no-any-return]

    @property
    def mapping(self) -> bool:
        """Whether it holds free names."""
        return any(get_origin(one) is dict for one in self.kinds)

    @property
    def values(self) -> list[str]:
        """The values that it takes, of one with a few: a choice, a registered name, a truth."""
        known = self.metadata.get("plugins", self.metadata.get("names", ()))
        found = [] if self.mapping else [*getattr(known, "names", known)]
        for one in self.kinds:
            found += map(str, get_args(one)) if get_origin(one) is Literal else ()
            found += ["true", "false"] if one is bool else ()
        return [*found, NULL] if found and len(self.kinds) < len(_parts(self.hint)) else found

    @property
    def place(self) -> bool:
        """Whether it is a path, an address or a run."""
        return self.metadata.get("text") == "place"

    @property
    def kind(self) -> str:
        """What it may be, in words."""
        if self.values:
            return ", ".join(self.values)
        names = [_kind_name(one) for one in self.kinds]
        names += [NULL] if len(self.kinds) < len(_parts(self.hint)) else []
        limits = [
            f"{key.replace('_', ' ')} {value}"
            for key, value in self.metadata.get("range", {}).items()
        ]
        return ", ".join([" or ".join(names), *limits])


_UNIONS = (Union, types.UnionType)


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in _UNIONS else (hint,)


def _kind_name(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (tuple, list):
        return f"list of {_kind_name(arguments[0])}s"
    if origin is dict:
        return f"mapping of {_kind_name(arguments[1])}s"
    if origin in _UNIONS:
        return " or ".join(_kind_name(one) for one in arguments if one is not types.NoneType)
    if dataclasses.is_dataclass(kind):
        return "options"
    return {str: "text", int: "whole number", float: "number"}.get(kind, str(kind))


def options_at(workflow: WorkflowSpec, key: str) -> dict[str, Option]:
    """Return the options inside a key such as `stage.distill` by name; all of them for ``.

    A name that no class has gives none: the keys of a mapping are free.
    """
    from quala.data.spec import DataSpec

    if not key:
        return {
            "data": Option(DataSpec, about="what is trained and tested on"),
            "flow": Option(FlowConfig, about="which stages run"),
            "model": Option(dict[str, str], about="the models to start from"),
            "progress": Option(bool, about="bars on a terminal, else log lines now and then"),
            "seed": Option(int, about="of all that is drawn"),
            "stage": Option(dict[str, Any], about="the options of each stage"),
            "tracking": Option(TrackingConfig, about="where runs and artifacts are kept"),
        }
    if key == "stage":
        stages = workflow.stages
        return {name: Option(one.config, about=one.summary) for name, one in stages.items()}
    parent, _, name = key.rpartition(".")
    found = options_at(workflow, parent).get(name)
    config = found.config if found else None
    if config is None:
        return {}
    hints, about = get_type_hints(config), _documented(config)
    return {
        item.name: Option(hints[item.name], item.metadata, about.get(item.name, ""))
        for item in dataclasses.fields(config)
        if item.init
    }


def option_at(workflow: WorkflowSpec, key: str) -> Option | None:
    """Return the option of a full name, None where there is none."""
    parent, _, name = key.rpartition(".")
    return options_at(workflow, parent).get(name)


def _documented(config: type[Any]) -> dict[str, str]:
    """Return the text below each field of a dataclass, with those that it inherits."""
    found = dict[str, str]()
    for one in reversed(config.__mro__):
        found |= _texts(one.__module__).get(one.__qualname__, {})
    return found


@cache
def _texts(module: str) -> dict[str, dict[str, str]]:
    """Return for each class of a module the text below each of its fields."""
    try:
        source = Path(inspect.getsourcefile(sys.modules[module]) or "").read_text("utf-8")
        classes = [one for one in ast.parse(source).body if isinstance(one, ast.ClassDef)]
    except (KeyError, OSError, TypeError, ValueError, SyntaxError):  # no file, as of a built-in
        return {}
    return {
        one.name: {
            item.target.id: " ".join(below.value.value.split())
            for item, below in zip(one.body, one.body[1:], strict=False)
            if isinstance(item, ast.AnnAssign)
            and isinstance(item.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        }
        for one in classes
    }


def explained(workflow: WorkflowSpec, words: Sequence[str]) -> str:
    """Return the help of a command line: on the keys among its words, else on the workflow."""
    where, rest = where_of([word for word in words if word not in HELP])
    keys = [word for word in rest if not word.startswith("-") and "=" not in word]
    if not keys:
        return workflow_help(workflow, where, rest)
    return "\n".join(options_help(workflow, key) for key in keys)


def options_help(workflow: WorkflowSpec, key: str) -> str:
    """Return what may be set inside a key such as `stage.distill`, with all that is said about it.

    Raises QualaError for a key that holds no options.
    """
    key = key.rstrip(".")
    inside = options_at(workflow, key)
    option = option_at(workflow, key)
    parent, dot, name = key.rpartition(".")
    if not inside and option is None:
        allowed = [f"{parent}{dot}{one}" for one in options_at(workflow, parent)]
        if not allowed and (above := option_at(workflow, parent)) and above.mapping:
            return options_help(workflow, parent)  # the names in it are free
        raise unknown("configuration key", key, allowed)
    if not inside and option is not None:
        inside, key = {name: option}, parent
    prefix = f"{key}." if key else ""
    return "".join(
        f"{prefix}{name}: {one.kind}\n"
        + textwrap.indent(textwrap.fill(one.about, COLUMNS - 4, break_on_hyphens=False), "    ")
        + ("\n" if one.about else "")
        for name, one in inside.items()
    )
