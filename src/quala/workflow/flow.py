"""The stage graph: a workflow script builds it by calls of a `Flow`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from quala.errors import QualaError, unknown
from quala.stage import RecipeStage, Stage, StageConfig
from quala.stages.options import OWN_TEACHER
from quala.stored import read_stored
from quala.workflow.identity import (
    ORIGIN,
    changes,
    code_identity,
    config_identity,
    fingerprint,
    made_of,
    revisions,
)
from quala.workflow.settings import Settings
from quala.workflow.sources import Source, Sources


@dataclass(frozen=True)
class Artifact:
    """The output of a stage; it has no folder while planning, and if the stage is left out."""

    name: str
    fingerprint: str
    folder: Path | None = None
    run_id: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    absent: str = "is only planned"

    @property
    def off(self) -> bool:
        """Whether the stage is switched off and has no pass-through."""
        return not self.fingerprint

    @property
    def path(self) -> Path:
        """The folder with the stage's output."""
        if self.folder is None:
            raise QualaError(f"Stage `{self.name}` has no output to use: it {self.absent}.")
        return self.folder


@dataclass(frozen=True)
class Node:
    """One stage of one workflow with its config, inputs and fingerprint."""

    name: str
    stage: Stage
    config: StageConfig
    inputs: Mapping[str, Source | Artifact]
    fingerprint: str
    identity: Mapping[str, Any]
    given: Path | None = None
    recipe: RecipeStage | None = None
    """What the script says of the stage; planning compares it with `config`."""

    @property
    def upstream(self) -> set[str]:
        """Names of the stages whose output this one takes."""
        return {item.name for item in self.inputs.values() if isinstance(item, Artifact)}

    def origin(self) -> dict[str, Any]:
        """Return what tells apart the data and the models that the output is of, where known."""
        found: dict[str, Any] = {}
        for key in ("data", *self.stage.about):
            item = self.inputs.get(key)
            if isinstance(item, Source):
                folder = Path(item.value) if isinstance(item.value, str) else None
                known = made_of(folder) if folder and folder.is_dir() else item.fingerprint
                found[key] = {"is": known, "detail": _without_folders(item.detail)}
            elif item is not None and item.folder is not None:
                found[key] = {"is": made_of(item.folder), "detail": {}}
        return found

    def foreign(self) -> list[str]:
        """Say in which inputs a given output is not of this run, as far as known now.

        A start model may be of any data. Raises QualaError where its figures would be taken for
        those of this run.
        """
        if self.given is None or not (self.upstream or self.stage.about):
            return []
        option, here = f"stage.{self.stage.name}.given", self.origin()
        try:
            there: dict[str, Any] = read_stored(
                Mapping[str, Mapping[str, Any]], self.given / ORIGIN
            )
        except QualaError:
            unknown = (
                self.stage.about and f"`{option}` does not say of which model and data it is."
            )
            return [unknown] if unknown else []
        found = []
        for key in here:
            if key not in there or here[key]["is"] == there[key].get("is"):
                continue
            details = changes(there[key].get("detail", {}), here[key]["detail"])
            details = [one for one in details if not one.startswith("path ")]
            text = f"`{option}` was made with another `{key}` ({'; '.join(details) or 'content'})"
            task = any(one.startswith(("task ", "subset ")) for one in details)
            if self.stage.exact or (self.stage.about and task):
                raise QualaError(f"{text}: its figures are not of this run, so compute it anew.")
            figures = "; its scores are of that one" if self.stage.about else ""
            found.append(f"{text}{figures}.")
        return found


def _without_folders(detail: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of an input, without where it is on this machine."""
    named = {"value": Path(detail["value"]).name} if "value" in detail else {}
    return {key: one for key, one in detail.items() if key != "path"} | named


class Driver(Protocol):
    """What a stage's call does: it is planned, or it is run."""

    def step(self, node: Node) -> Artifact:
        """Return the output of `node`."""


class Flow:
    """Builds the stage graph: a workflow script calls it to name inputs and run stages.

    A script is called twice, first to plan and then to run. Both times it must call the same
    stages with the same inputs, and while planning it must not read an output.
    """

    def __init__(
        self, settings: Settings, stages: Mapping[str, Stage], sources: Sources, driver: Driver
    ) -> None:
        self.settings = settings
        self._stages = stages
        self._sources = sources
        self._driver = driver
        self.names: list[str] = []
        self.starts: set[str] = set()
        """Keys of the config's `model` that the script asked for."""

    def data(self) -> Source:
        """Return the data that the config's `data` names."""
        return self._sources.data(self.settings.data)

    def model(self, key: str) -> Source:
        """Return the model that the config's `model.<key>` names: a folder, name or run."""
        if key not in self.settings.model:
            raise unknown("model", key, self.settings.model)
        self.starts.add(key)
        value = self.settings.model[key]
        if not value:
            raise QualaError(f"`model.{key}` is not set: give a folder, a hub name or a run.")
        return self._sources.model(key, value)

    def run(
        self,
        stage: str | RecipeStage,
        /,
        *,
        name: str | None = None,
        otherwise: Source | Artifact | None = None,
        changes: Mapping[str, Any] | None = None,
        **inputs: Source | Artifact | None,
    ) -> Artifact:
        """Run a stage on `inputs` and return its output.

        A stage is named, or is what a recipe says of it, such as `distill("copy_layers", ...)`.
        A second use of the same stage needs another `name`; `changes` replaces options of the
        stage. A stage that is switched off returns `otherwise`, such as the model that it would
        train. Inputs that are None are left out.

        Raises:
            QualaError: for an unknown stage or option, a name that is used twice, and an input
                from a stage that is switched off.
        """
        recipe = None if isinstance(stage, str) else stage
        stage = stage if isinstance(stage, str) else stage.stage
        if stage not in self._stages:
            raise unknown("stage", stage, self._stages)
        name = name or stage
        if name in self.names:
            raise QualaError(f"Stage `{name}` is used twice: give the second use a `name`.")
        self.names.append(name)
        config = _changed(self.settings.stages[stage], changes or {})
        config = _named(config, self.settings.workflow)
        if not config.enabled:
            return cast(Artifact, otherwise) or Artifact(name, "", absent="is switched off")
        used = {key: item for key, item in inputs.items() if item is not None}
        for item in used.values():
            if isinstance(item, Artifact) and item.off:
                raise QualaError(f"Stage `{name}` needs `{item.name}`, which is switched off.")
        used |= self._teachers(name, config, used)
        node = self._node(name, self._stages[stage], config, used)
        return self._driver.step(dataclasses.replace(node, recipe=recipe))

    def _teachers(
        self, name: str, config: StageConfig, used: Mapping[str, Source | Artifact]
    ) -> dict[str, Source | Artifact]:
        """Return the teachers that the options name, as inputs: their content counts."""
        found: dict[str, Source | Artifact] = {}
        places = getattr(config, "teachers", ()) if config.given is None else ()
        for number, place in enumerate(places):
            if place != OWN_TEACHER:
                found[f"teachers.{number}"] = self._sources.teacher(number, place)
            elif OWN_TEACHER in used:
                found[f"teachers.{number}"] = used[OWN_TEACHER]
            else:
                raise QualaError(f"`teachers`: the stage `{name}` has no `{OWN_TEACHER}` here.")
        return found

    def _node(
        self,
        name: str,
        stage: Stage,
        config: StageConfig,
        inputs: Mapping[str, Source | Artifact],
    ) -> Node:
        identity = {
            "stage": stage.name,
            "version": stage.version,
            "config": config_identity(config),
            **({"code": code} if (code := {**stage.code, **code_identity(config)}) else {}),
            "inputs": {key: item.fingerprint for key, item in sorted(inputs.items())},
            **({"revised": revised} if (revised := revisions(config)) else {}),
        }
        origins = {
            key: {"from": item.name}
            | ({"detail": dict(item.detail)} if isinstance(item, Source) else {})
            for key, item in inputs.items()
        }
        node = Node(
            name=name,
            stage=stage,
            config=config,
            inputs=inputs,
            fingerprint=fingerprint(identity),
            identity={**identity, "origins": origins},
        )
        if config.given is None:
            return node
        try:
            folder, content = self._sources.given(config.given)
        except QualaError as error:
            raise QualaError(f"`stage.{stage.name}.given`: {error}") from error
        return dataclasses.replace(node, given=folder, fingerprint=content)


def _changed(config: StageConfig, changes: Mapping[str, Any]) -> StageConfig:
    known = {field.name for field in dataclasses.fields(config)}
    for key in changes:
        if key not in known:
            raise unknown("stage option", key, known)
    return dataclasses.replace(config, **changes)


def _named(config: StageConfig, workflow: str) -> StageConfig:
    """Return the config with a value from the workflow's name for each option that wants one."""
    unset = {
        item.name: item.metadata["null"](workflow)
        for item in dataclasses.fields(config)
        if "null" in item.metadata and getattr(config, item.name) is None
    }
    return dataclasses.replace(config, **unset)
