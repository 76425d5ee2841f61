"""The typed shape of the configuration: schemas for Hydra, plain dataclasses for the code."""

from __future__ import annotations

import dataclasses
import os
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from quala.errors import QualaError, quoted, unknown
from quala.ranges import (
    LARGEST_SEED,
    check_folder_place,
    check_number,
    check_ranges,
    check_text,
    text,
)
from quala.stage import StageConfig
from quala.workflow.server import SERVER, chosen_address, chosen_experiment

SCALARS = (str, int, float, bool)
ROOT = ("workflow", "data", "model", "stage", "flow", "tracking", "seed", "progress")
"""The keys of a configuration."""
LONGEST_PATH = 400
"""Bytes: SQLite's own limit is 512, with the names of drafts and journals."""
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


@dataclass
class FlowConfig:
    """Which stages of a workflow run."""

    only: str | None = text("line", None)
    """Only this stage; its inputs must exist or be given."""
    until: str | None = text("line", None)
    """This stage and what it needs."""
    since: str | None = text("line", None)
    """This stage and all that depend on it, computed again."""
    force: list[str] = text("line", list)
    """Stages that run although their output exists."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass
class TrackingConfig:
    """Where runs and artifacts are kept."""

    uri: str | None = text("store")
    """An MLflow tracking server or database; null is what the variable `MLFLOW_TRACKING_URI` says,
    else SQLite in `folder`."""
    folder: str = text("place")
    """Folder of the embedded store, relative to the working directory."""
    work: str | None = text("place")
    """Folder for checkpoints of unfinished stages; null is `<folder>/work`."""
    experiment: str | None = text("place")
    """The MLflow experiment in which runs are recorded and looked up; in a store without a server
    a folder is named by it. Null is what `MLFLOW_EXPERIMENT_NAME` says, else `quala`."""
    diff: bool = False
    """Whether the diff of uncommitted changes is stored with a run, not only its hash."""
    candidates: bool = False
    """Whether each candidate of a search is a child run, not only a line of a table."""
    system_metrics: bool = False
    """Whether load of processor, memory, disk, network and GPU is recorded every 10 s."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for name in ("folder", "work"):
            if (place := getattr(self, name)) is not None:
                setattr(self, name, os.path.expanduser(place))
                check_folder_place(name, getattr(self, name))
        uri = chosen_address(self.uri)
        if uri is None and (size := len(os.path.abspath(self.folder).encode())) > LONGEST_PATH:
            raise QualaError(
                f"`folder` must have at most {LONGEST_PATH} bytes with the folders above it, for "
                f"SQLite opens no longer path, got {size}."
            )
        experiment = chosen_experiment(self.experiment)
        name = "MLFLOW_EXPERIMENT_NAME" if self.experiment is None else "experiment"
        check_text(name, experiment, "place" if str(uri).startswith(SERVER) else "name")


@dataclass(frozen=True)
class Settings:
    """One resolved configuration, typed."""

    workflow: str
    data: Any
    model: dict[str, str | None]
    stages: dict[str, Any]
    flow: FlowConfig
    tracking: TrackingConfig
    seed: int
    progress: bool


def root_schema(stages: Mapping[str, type[StageConfig]], workflow: str) -> type[Any]:
    """Return the dataclass that Hydra checks a whole configuration against."""
    from quala.data.spec import DataSpec

    schemas = {name: schema(config) for name, config in stages.items()}
    stage_fields = [(name, kind, field(default_factory=kind)) for name, kind in schemas.items()]
    stage_group = dataclasses.make_dataclass("Stages", stage_fields)
    data, flow, tracking = schema(DataSpec), schema(FlowConfig), schema(TrackingConfig)
    return dataclasses.make_dataclass(
        "Config",
        [
            ("workflow", str, field(default=workflow)),
            ("data", data, field(default_factory=data)),
            ("model", dict[str, str | None], field(default_factory=dict)),
            ("stage", stage_group, field(default_factory=stage_group)),
            ("flow", flow, field(default_factory=flow)),
            ("tracking", tracking, field(default_factory=tracking)),
            ("seed", int, field(default=MISSING)),
            ("progress", bool, field(default=MISSING)),
        ],
    )


def settings(values: Mapping[str, Any], stages: Mapping[str, type[StageConfig]]) -> Settings:
    """Return the typed form of a resolved configuration; raise QualaError for a bad value."""
    from quala.data.spec import DataSpec

    _only_known(values, ROOT)
    _only_known(values["stage"], stages, "stage")
    check_number("seed", values["seed"], {"at_least": 0, "at_most": LARGEST_SEED})
    for key, value in values["model"].items():
        check_text("model key", key, "line")
        if value is not None:
            check_text(f"model.{key}", value, "place")
    return Settings(
        workflow=values["workflow"],
        data=build(DataSpec, values["data"], "data"),
        model=dict(values["model"]),
        stages={
            name: build(config, values["stage"][name], f"stage.{name}")
            for name, config in stages.items()
        },
        flow=build(FlowConfig, values["flow"], "flow"),
        tracking=build(TrackingConfig, values["tracking"], "tracking"),
        seed=values["seed"],
        progress=values["progress"],
    )


def schema(config: type[Any]) -> type[Any]:
    """Return a dataclass with the fields of `config` in the types that OmegaConf knows.

    Literals become strings and tuples lists, fields without a default become required (`???`),
    frozen classes lose their `__post_init__`: `build` makes the real object and checks it.
    """
    hints = get_type_hints(config)
    return dataclasses.make_dataclass(
        config.__name__, [_schema_field(item, hints[item.name]) for item in _init_fields(config)]
    )


def build(config: type[Any], values: Mapping[str, Any], path: str = "") -> Any:
    """Return `config` made from plain values, the reverse of `schema`.

    Raises QualaError for a bad value; the message names its option as Hydra does, from `path` on.
    """
    hints = get_type_hints(config)
    prefix = f"{path}." if path else ""
    fields = [item.name for item in _init_fields(config)]
    _only_known(values, fields, path)
    made = {name: _value(hints[name], values[name], prefix + name) for name in fields}
    with named(config, path):
        return config(**made)


@contextmanager
def named(config: Any, path: str, *, always: bool = True) -> Iterator[None]:
    """Give the options of a config in the sentence of a QualaError the names that Hydra has.

    A sentence without an option begins with `path`, if `always`.
    """
    try:
        yield
    except QualaError as error:
        # A value that was given may be spelled like an option.
        option = rf"(?<!got )`({'|'.join(item.name for item in _init_fields(config))})\b"
        sentence = re.sub(option, rf"`{path}.\1" if path else r"`\1", str(error))
        if always and path and f"`{path}." not in sentence:
            sentence = f"`{path}`: {sentence}"
        raise QualaError(sentence) from error


def _only_known(values: Mapping[str, Any], known: Iterable[str], path: str = "") -> None:
    # Hydra's `+key=value` adds keys that no schema has.
    prefix = f"{path}." if path else ""
    for key in values:
        if key not in known:
            allowed = [f"{prefix}{name}" for name in known]
            raise unknown("configuration key", f"{prefix}{key}", allowed)


def _init_fields(config: Any) -> list[dataclasses.Field[Any]]:
    return [item for item in dataclasses.fields(config) if item.init]


def _schema_field(item: dataclasses.Field[Any], hint: Any) -> tuple[str, Any, Any]:
    kind = _schema_type(hint)
    if dataclasses.is_dataclass(hint):
        return item.name, kind, field(default_factory=kind)
    if item.default_factory is not dataclasses.MISSING:
        made = item.default_factory()
        return item.name, kind, field(default_factory=lambda: _plain(made))
    default = MISSING if item.default is dataclasses.MISSING else item.default
    if isinstance(default, tuple | list | dict):
        return item.name, kind, field(default_factory=lambda: _plain(default))
    return item.name, kind, field(default=default)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _schema_type(hint: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return schema(hint)  # type: ignore[arg-type]
    if origin is Literal:
        return type(arguments[0])
    if origin in (tuple, list):
        return list[_schema_type(arguments[0])]  # type: ignore[misc]
    if origin is dict:
        return dict[arguments[0], _schema_type(arguments[1])]  # type: ignore[valid-type,misc]
    if origin in (Union, types.UnionType):
        return Union[tuple(_schema_type(part) for part in arguments)]  # noqa: UP007
    return hint


def _value(hint: Any, value: Any, name: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if value is None:
        return None
    if dataclasses.is_dataclass(hint):
        return build(hint, value, name)  # type: ignore[arg-type]
    if origin is Literal:
        if value not in arguments:
            raise unknown(f"value of `{name}`", value, map(str, arguments))
        return value
    if origin is tuple:
        return tuple(_value(arguments[0], part, name) for part in value)
    if origin is list:
        return [_value(arguments[0], part, name) for part in value]
    if origin is dict:
        return {key: _value(arguments[1], part, name) for key, part in value.items()}
    if origin in (Union, types.UnionType):
        kinds = [part for part in arguments if part is not type(None)]
        if len(kinds) == 1:
            return _value(kinds[0], value, name)
        if not isinstance(value, SCALARS):
            raise QualaError(f"`{name}` takes one of {kinds}, got {quoted(repr(value))}.")
        return value
    if isinstance(value, str) and _UNSTORABLE.search(value):
        raise QualaError(
            f"`{name}` holds a character that no file can hold, got {quoted(repr(value))}."
        )
    return Path(value) if hint is Path else value
