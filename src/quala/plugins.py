"""Names that a configuration may use, and where their code is: built in, installed, or dotted."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from quala.errors import QualaError, unknown

T = TypeVar("T")


@dataclass(frozen=True)
class Registry(Generic[T]):
    """The objects of one kind, by name.

    A name is one of `own`, one that an installed package declares in the entry point group
    `group`, or the dotted path of an object, `package.module.Name`. Nothing is imported before
    `find`, so that a configuration is checked without torch. A class is called without arguments,
    unless `classes` are wanted.
    """

    kind: str
    """What error messages call it, such as `significance`."""
    group: str
    """Group of entry points, such as `quala.significance`."""
    own: Mapping[str, str]
    """quala's own: `module:attribute` by name."""
    classes: bool = False

    @cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}

    @property
    def names(self) -> list[str]:
        """Names that need no path, quala's own first."""
        return [*self.own, *(name for name in self._installed if name not in self.own)]

    def check(self, name: str) -> None:
        """Raise QualaError for a name that is neither known nor a dotted path."""
        if name not in self.own and "." not in name and name not in self._installed:
            raise unknown(self.kind, name, self.names)

    def find(self, name: str) -> T:
        """Import and return the object called `name`.

        Raises:
            QualaError: for a name that is not known, and for a path that leads nowhere.
        """
        self.check(name)
        if name in self.own:
            module, _, attribute = self.own[name].partition(":")
            found: Any = getattr(importlib.import_module(module), attribute)
        elif name in self._installed:
            found = self._installed[name].load()
        else:
            found = self._imported(name)
        made: T = found() if isinstance(found, type) and not self.classes else found
        return made

    def _imported(self, path: str) -> Any:
        module, _, attribute = path.rpartition(".")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise QualaError(f"The {self.kind} `{path}` cannot be imported: {error}.") from error


FAMILIES: Registry[Any] = Registry(
    "model family",
    "quala.families",
    {},
)
"""Keyed by `model_type` of config.json."""

SIGNIFICANCE: Registry[Any] = Registry(
    "significance",
    "quala.significance",
    {},
)

LOSSES: Registry[Any] = Registry(
    "distillation loss",
    "quala.losses",
    {},
)

STRATEGIES: Registry[Any] = Registry(
    "search strategy",
    "quala.strategies",
    {},
    classes=True,
)

WORKFLOWS: Registry[Any] = Registry(
    "workflow",
    "quala.workflows",
    {},
)
"""Workflows of other packages; quala's own are scripts, see `quala.workflow.script`."""
