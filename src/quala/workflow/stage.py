"""What the engine knows of a stage before it runs: names and types, no heavy import."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quala.workflow.context import StageContext

StageFunction = Callable[[Any, "StageContext", Mapping[str, Any]], dict[str, float]]


@dataclass
class StageConfig:
    """What every stage's config has; none of it is part of the fingerprint."""

    enabled: bool = field(default=True, metadata={"identity": False})
    """A stage switched off hands its pass-through input on."""
    given: str | None = field(default=None, metadata={"identity": False})
    """An output from outside: a folder, `runs:/ID`, a run id or `models:/name@alias`."""
    force: bool = field(default=False, metadata={"identity": False})
    """Run the stage although its output exists."""


@dataclass(frozen=True)
class Stage:
    """Describe a stage of a workflow.

    `version` is raised by hand when the stage's code changes what it makes: it is part of the
    fingerprint. `config` is a dataclass; a field with `metadata={"identity": False}` does not
    count, one with `"if set"` only off its default. `run` is `"module:function"`, imported only
    when the stage runs. `headline` names the final metrics that the workflow's own run carries
    under their plain name, for the charts.
    """

    name: str
    version: int
    config: type[StageConfig]
    run: str
    summary: str
    headline: tuple[str, ...] = ()

    def function(self) -> StageFunction:
        """Import and return the function that does the work."""
        module, _, attribute = self.run.partition(":")
        function: StageFunction = getattr(importlib.import_module(module), attribute)
        return function
