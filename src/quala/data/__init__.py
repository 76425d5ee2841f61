"""Data: tasks, data sets read from files or the hub, their slices, tokens and batches.

A `DataSpec` names the data; `TaskData` has its slices, tokenized, and the `Task` that scores
them: `Span`, `Classes`, `Value`, `Tags` or `Embedding`. A `FeatureSet` makes a `Batch` of any of
its rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quala._lazy import lazy

if TYPE_CHECKING:
    from quala.data.features import Batch, ClassificationExample, FeatureSet, QAExample
    from quala.data.spec import DataSpec, Decoding, Windows
    from quala.data.task import Classes, Span, Task, Value
    from quala.data.task_embed import Embedding
    from quala.data.task_tags import Tags
    from quala.data.taskdata import TaskData
    from quala.data.tokenize import FastTokenizer

__all__ = [
    "DataSpec", "Windows", "Decoding", "Task", "Span", "Classes", "Value", "Tags", "Embedding",
    "TaskData", "FastTokenizer", "FeatureSet", "Batch", "QAExample", "ClassificationExample",
]  # fmt: skip

__getattr__ = lazy(
    __name__,
    {
        "quala.data.features": ["Batch", "ClassificationExample", "FeatureSet", "QAExample"],
        "quala.data.spec": ["DataSpec", "Decoding", "Windows"],
        "quala.data.task": ["Classes", "Span", "Task", "Value"],
        "quala.data.task_embed": ["Embedding"],
        "quala.data.task_tags": ["Tags"],
        "quala.data.taskdata": ["TaskData"],
        "quala.data.tokenize": ["FastTokenizer"],
    },
)
