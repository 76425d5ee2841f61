"""Names that a configuration may use, and where their code is: built in, installed, or dotted."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from quala.errors import QualaError, unknown

T = TypeVar("T")


@dataclass(frozen=True)
class Registry(Generic[T]):
    """The objects of one kind, by name.

    A name is one of `own`, one that an installed package declares in the entry point group
    `group`, or the dotted path of an object, `package.module.Name`. quala's own and installed code
    is imported by `find` only, so that a configuration is checked without torch. A class is called
    without arguments, unless `classes` are wanted.
    """

    kind: str
    """What error messages call it, such as `significance`."""
    group: str
    """Group of entry points, such as `quala.significance`."""
    own: Mapping[str, str]
    """quala's own: `module:attribute` by name."""
    classes: bool = False
    dotted: bool = True
    """Whether a name may be a dotted path."""
    base: str = ""
    """`module:class` of which the objects must be instances, where `find` checks it."""
    methods: tuple[str, ...] = ()
    """What the objects must have, where no `base` says it."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Names that resemble quala's own, and the reason why they are not among them."""

    @cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}

    @property
    def names(self) -> list[str]:
        """Names that need no path, quala's own first."""
        return [*self.own, *(name for name in self._installed if name not in self.own)]

    def check(self, name: str) -> None:
        """Raise QualaError for a name that is not known, and for a path that leads nowhere."""
        if name in self.own or name in self._installed:
            return
        if name in self.refused:
            raise QualaError(f"The {self.kind} `{name}` is not supported: {self.refused[name]}.")
        if not self.dotted or not is_path(name):
            raise unknown(self.kind, name, self.names)
        self._imported(name)

    def check_option(self, option: str, name: str) -> None:
        """Raise QualaError, which names the option, for a name that `find` would refuse.

        quala's own are not imported for it.
        """
        try:
            self.check(name)
            if name not in self.own:
                self.find(name)
        except QualaError as error:
            raise QualaError(f"`{option}`: {error}") from error

    def check_stored(self, name: str) -> None:
        """Raise QualaError for the dotted path of a module that is not imported yet.

        It is for names that come from a file: which code runs is decided by the configuration, by
        the calling program, or by what is installed, never by a file.
        """
        module = name.rpartition(".")[0]
        if name in self.own or name in self._installed or not module or module in sys.modules:
            return
        raise QualaError(
            f"A model file names the {self.kind} `{name}`, and files import no code: name it in "
            f"the configuration, import `{module}` before, or install it in the entry point group "
            f"`{self.group}`."
        )

    def find(self, name: str) -> T:
        """Import and return the object called `name`.

        Raises:
            QualaError: for a name that is not known, and for a path that leads nowhere.
        """
        self.check(name)
        if name in self.own:
            module, _, attribute = self.own[name].partition(":")
            found: Any = getattr(importlib.import_module(module), attribute)
        else:
            found = self._imported(name)
        kind = found if isinstance(found, type) else type(found)
        bases = [f"{one.__module__}:{one.__qualname__}" for one in kind.__mro__]
        if self.base and self.base not in bases:  # before anything is made of it
            raise QualaError(
                f"The {self.kind} `{name}` must be a subclass of "
                f"{self.base.replace(':', '.')}, got {kind.__name__}."
            )
        missing = [one for one in self.methods if not hasattr(found, one)]
        if missing or (self.classes and not isinstance(found, type)):
            lacks = f" without {', '.join(missing)}" if missing else ""
            raise QualaError(
                f"The {self.kind} `{name}` must be a class"
                f"{' with the methods ' if self.methods else ''}{', '.join(self.methods)}, got "
                f"{kind.__name__}{lacks}."
            )
        if isinstance(found, type) and not self.classes:
            try:
                found = found()
            except TypeError as error:
                raise QualaError(
                    f"The {self.kind} `{name}` must be made without arguments: {error}."
                ) from error
        made: T = found
        return made

    def source(self, name: str) -> str | None:
        """Return the SHA-256 of the file that defines `name`; None for quala's own."""
        return None if name in self.own else source_hash(self._imported(name))

    def _imported(self, name: str) -> Any:
        """Import what is not quala's own: an installed name, or a dotted path."""
        module, _, attribute = name.rpartition(".")
        try:
            if name in self._installed:
                return self._installed[name].load()
            return getattr(importlib.import_module(module), attribute)
        except Exception as error:  # code of others, which may raise anything when imported
            raise QualaError(
                f"The {self.kind} `{name}` cannot be imported: {error or type(error).__name__}."
            ) from error


def is_path(name: str) -> bool:
    """Return whether a name is a dotted path, `package.module.Name`."""
    parts = name.split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts)


def source_hash(found: Any) -> str | None:
    """Return the SHA-256 of the file that defines a class, a function or an instance's class.

    None for quala's own, and where there is no such file.
    """
    kind = found if isinstance(found, type) or inspect.isroutine(found) else type(found)
    if str(kind.__module__).startswith("quala."):
        return None
    try:
        return hashlib.sha256(Path(inspect.getsourcefile(kind) or "").read_bytes()).hexdigest()
    except (TypeError, OSError):  # built in, compiled, or gone
        return None


def module_hash(name: str) -> str | None:
    """Return the SHA-256 of a module's file, as `source_hash`; the module is not imported."""
    if name.startswith("quala."):
        return None
    try:
        spec = importlib.util.find_spec(name)
        return hashlib.sha256(Path((spec and spec.origin) or "").read_bytes()).hexdigest()
    except (ImportError, ValueError, OSError):
        return None


TASKS: Registry[Any] = Registry(
    "task kind",
    "quala.tasks",
    {
        "question-answering": "quala.data.task:Span",
        "classification": "quala.data.task:Classes",
        "regression": "quala.data.task:Value",
        "token-classification": "quala.data.task_tags:Tags",
        "embedding": "quala.data.task_embed:Embedding",
    },
    classes=True,
    base="quala.data.task:Task",
)
"""Keyed by `Task.kind`, which quala.json names."""

FORMATS: Registry[Any] = Registry(
    "data task",
    "quala.formats",
    {
        "squad": "quala.data.formats:Squad",
        "glue": "quala.data.formats:Glue",
        "tags": "quala.data.formats:TaggedWords",
        "embed": "quala.data.formats:ScoredPairs",
        "triples": "quala.data.triples:Triples",
    },
    base="quala.data.formats:DataFormat",
)
"""Keyed by `data.task`."""

FAMILIES: Registry[Any] = Registry(
    "`model_type`",
    "quala.families",
    {
        "bert": "quala.models.families:BERT",
        "roberta": "quala.models.families:ROBERTA",
        "xlm-roberta": "quala.models.families:ROBERTA",
        "camembert": "quala.models.families:ROBERTA",
        "electra": "quala.models.families:ELECTRA",
        "distilbert": "quala.models.families:DISTILBERT",
        "mpnet": "quala.models.mpnet:MPNET",
        "modernbert": "quala.models.modernbert:MODERNBERT",
        "deberta-v2": "quala.models.deberta:DEBERTA_V2",
        "albert": "quala.models.albert:ALBERT",
    },
    dotted=False,  # a downloaded config.json names it
    refused={
        "deberta": "its queries, keys and values are one matrix in which heads alternate, with "
        "biases of their own; `deberta-v2`, which is also that of DeBERTa-v3, is"
    },
)
"""Keyed by `model_type` of config.json."""

SIGNIFICANCE: Registry[Any] = Registry(
    "significance",
    "quala.significance",
    {
        "column_sum": "quala.models.significance:ColumnSum",
        "query_rows": "quala.models.significance:QueryRows",
        "question": "quala.models.significance:Question",
        "cls": "quala.models.significance:Cls",
        "span": "quala.models.significance:Span",
    },
    base="quala.models.significance:Significance",
)

LOSSES: Registry[Any] = Registry(
    "distillation loss",
    "quala.losses",
    {
        "hidden": "quala.compress.losses:HiddenLoss",
        "attention": "quala.compress.losses:AttentionLoss",
        "relation": "quala.compress.losses:RelationLoss",
        "hard": "quala.compress.losses:HardLoss",
        "soft": "quala.compress.losses:SoftLoss",
    },
    base="quala.compress.losses:DistillLoss",
)
"""In the order in which a training adds them."""

STRATEGIES: Registry[Any] = Registry(
    "search strategy",
    "quala.strategies",
    {
        "quala": "quala.search.guided:Guided",
        "published": "quala.search.published:Published",
        "bayesian": "quala.search.bayesian:Bayesian",
    },
    classes=True,
    methods=("seeds", "parents", "propose"),
)

WORKFLOWS: Registry[Any] = Registry(
    "workflow",
    "quala.workflows",
    {},
)
"""Workflows of other packages; quala's own are scripts, see `quala.workflow.script`."""


def known_names() -> set[str]:
    """Return the names in all registries."""
    found = [one for one in globals().values() if isinstance(one, Registry)]
    return {name for registry in found for name in registry.names}
