"""Names that a package gives out, imported on first use (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return the `__getattr__` of `package`, which takes its names from these `modules`.

    So `import quala.compress` needs no torch, and `quala.compress.keep_layers` imports it.
    """
    sources = {name: module for module, names in modules.items() for name in names}

    def find(name: str) -> Any:
        if name not in sources:
            raise AttributeError(f"module `{package}` has no attribute `{name}`")
        found = getattr(importlib.import_module(sources[name]), name)
        setattr(sys.modules[package], name, found)  # found at once the next time
        return found

    return find
