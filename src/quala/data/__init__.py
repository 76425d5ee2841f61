"""Data: tasks, data sets read from files or the hub, their slices, tokens and batches."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from quala.data.spec import DataSpec, Decoding, Windows

if TYPE_CHECKING:
    from quala.data.task import Classes, Span, Task, Value
    from quala.data.taskdata import TaskData
    from quala.data.tokenize import FastTokenizer

__all__ = [
    "DataSpec",
    "Windows",
    "Decoding",
    "Task",
    "Span",
    "Classes",
    "Value",
    "TaskData",
    "FastTokenizer",
]

_LATE = {"TaskData": "taskdata", "FastTokenizer": "tokenize"}


def __getattr__(name: str) -> object:
    """Import what is asked for: a specification is checked without numpy."""
    if name not in __all__:
        raise AttributeError(f"module `quala.data` has no attribute `{name}`")
    return getattr(importlib.import_module(f"quala.data.{_LATE.get(name, 'task')}"), name)
