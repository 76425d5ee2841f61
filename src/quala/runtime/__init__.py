"""Inference without torch: answers within a budget, engines, and what a run will take.

`load` returns a `QuestionAnswerer`. A `Query` has a question, a context and a `Budget`, the answer
is a `Reply`. An `Engine` computes logits by PyTorch, ONNX Runtime or OpenVINO; a `LatencyModel`
predicts its milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quala._lazy import lazy

if TYPE_CHECKING:
    from quala.runtime.answerer import QuestionAnswerer, load
    from quala.runtime.card import Budget, Query, Reply
    from quala.runtime.engine import Engine
    from quala.runtime.latency_model import LatencyModel

__all__ = ["Budget", "Engine", "LatencyModel", "Query", "QuestionAnswerer", "Reply", "load"]

__getattr__ = lazy(
    __name__,
    {
        "quala.runtime.answerer": ["QuestionAnswerer", "load"],
        "quala.runtime.card": ["Budget", "Query", "Reply"],
        "quala.runtime.engine": ["Engine"],
        "quala.runtime.latency_model": ["LatencyModel"],
    },
)
