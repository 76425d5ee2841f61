"""Metrics: the official SQuAD scores, those of GLUE, of entities and of rankings, Pareto fronts.

`evaluate_predictions` scores SQuAD 1.1, `evaluate_null_predictions` 2.0, `compute_metric` one
metric of GLUE by name, `query_scores` a ranking. `find_entities` reads those of tagged words.
`pareto_front` and `hypervolume` compare scores at a cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quala._lazy import lazy

if TYPE_CHECKING:
    from quala.metrics.entities import find_entities
    from quala.metrics.glue import compute_metric, task_metrics
    from quala.metrics.pareto import hypervolume, pareto_front
    from quala.metrics.ranking import query_scores
    from quala.metrics.squad import (
        SquadScore,
        answer_exact,
        answer_f1,
        evaluate_null_predictions,
        evaluate_predictions,
        normalize_answer,
    )

__all__ = [
    "SquadScore", "answer_exact", "answer_f1", "compute_metric",
    "evaluate_null_predictions", "evaluate_predictions", "find_entities", "hypervolume",
    "normalize_answer", "pareto_front", "query_scores", "task_metrics",
]  # fmt: skip

__getattr__ = lazy(
    __name__,
    {
        "quala.metrics.entities": ["find_entities"],
        "quala.metrics.glue": ["compute_metric", "task_metrics"],
        "quala.metrics.pareto": ["hypervolume", "pareto_front"],
        "quala.metrics.ranking": ["query_scores"],
        "quala.metrics.squad": [
            "SquadScore",
            "answer_exact",
            "answer_f1",
            "evaluate_null_predictions",
            "evaluate_predictions",
            "normalize_answer",
        ],
    },
)
