"""Metrics: the official SQuAD scores, the GLUE metrics, Pareto fronts."""

from quala.metrics.pareto import hypervolume, pareto_front
from quala.metrics.squad import (
    SquadScore,
    answer_exact,
    answer_f1,
    evaluate_predictions,
    normalize_answer,
)

__all__ = [
    "SquadScore",
    "answer_exact",
    "answer_f1",
    "evaluate_predictions",
    "hypervolume",
    "normalize_answer",
    "pareto_front",
]
