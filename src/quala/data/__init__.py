"""Data: SQuAD, GLUE and the demo set, as slices of features and batches of tensors.

A `DataSpec` says which data; `TaskData` has its slices, tokenized, and the `Task` that scores
them. A `FeatureSet` makes a `Batch` of any of its rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quala._lazy import lazy

if TYPE_CHECKING:
    from quala.data.batches import eval_batches
    from quala.data.features import Batch, ClassificationExample, FeatureSet, QAExample
    from quala.data.spec import DataSpec
    from quala.data.task import Task
    from quala.data.taskdata import TaskData

__all__ = [
    "Batch", "ClassificationExample", "DataSpec", "FeatureSet", "QAExample", "Task",
    "TaskData", "eval_batches",
]  # fmt: skip

__getattr__ = lazy(
    __name__,
    {
        "quala.data.batches": ["eval_batches"],
        "quala.data.features": ["Batch", "ClassificationExample", "FeatureSet", "QAExample"],
        "quala.data.spec": ["DataSpec"],
        "quala.data.task": ["Task"],
        "quala.data.taskdata": ["TaskData"],
    },
)
