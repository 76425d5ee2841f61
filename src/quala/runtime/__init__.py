"""Inference without torch: predictions within a budget, engines, and what a run will take.

`load` returns what fits the task of an export. A `QuestionAnswerer` takes a `Query`, a question
and a context with a `Budget`, and gives a `Reply`. A `Classifier`, `Regressor`, `Tagger` or
`Embedder` takes a `TextQuery` and gives a `Prediction`. An `Engine` computes logits by PyTorch,
ONNX Runtime or OpenVINO; a `LatencyModel` predicts its milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quala._lazy import lazy

if TYPE_CHECKING:
    from quala.runtime.answerer import QuestionAnswerer, load
    from quala.runtime.card import Budget, Query, Reply
    from quala.runtime.engine import Engine
    from quala.runtime.latency_model import LatencyModel
    from quala.runtime.prediction import Prediction, Ranked, TextQuery
    from quala.runtime.predictor import Predictor
    from quala.runtime.texts import Classifier, Embedder, Regressor, Tagger

__all__ = [
    "Budget",
    "Classifier",
    "Embedder",
    "Engine",
    "LatencyModel",
    "Prediction",
    "Predictor",
    "Query",
    "QuestionAnswerer",
    "Ranked",
    "Regressor",
    "Reply",
    "Tagger",
    "TextQuery",
    "load",
]

__getattr__ = lazy(
    __name__,
    {
        "quala.runtime.answerer": ["QuestionAnswerer", "load"],
        "quala.runtime.card": ["Budget", "Query", "Reply"],
        "quala.runtime.engine": ["Engine"],
        "quala.runtime.latency_model": ["LatencyModel"],
        "quala.runtime.prediction": ["Prediction", "Ranked", "TextQuery"],
        "quala.runtime.predictor": ["Predictor"],
        "quala.runtime.texts": ["Classifier", "Embedder", "Regressor", "Tagger"],
    },
)
