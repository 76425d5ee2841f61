"""Significance strategies as ONNX nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto
from torch import nn

from quala.errors import QualaError
from quala.graph.builder import GraphBuilder
from quala.graph.layers import linear, span_head
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.significance import Cls, ColumnSum, QueryRows, Question, Span


@dataclass(frozen=True, slots=True)
class Seen:
    """Names of what a strategy sees; `query` is scaled by 1 / sqrt(d)."""

    query: str  # (B, heads, n, d)
    key: str  # (B, heads, n, d)
    valid: str  # (B, n) bool
    question: str  # (B, n) bool
    hidden: str  # (B, n, H), after the attention


def scores(g: GraphBuilder, model: LengthAdaptiveModel, seen: Seen) -> tuple[str, bool]:
    """Return the scores (B, n), and whether survivors must stay in the order of the text."""
    strategy = model.significance
    if isinstance(strategy, Span):
        return _span(g, span_head(model.hf), seen, strategy.boost), False
    if isinstance(strategy, ColumnSum):
        ranked = _votes(g, seen.query, seen, seen.valid)
    elif isinstance(strategy, QueryRows):
        voters = _first(g, seen.valid, strategy.rows, axis=1)
        ranked = _votes(g, _first(g, seen.query, strategy.rows, axis=2), seen, voters)
    elif isinstance(strategy, Question):
        voters = _askers(g, _first(g, seen.question, strategy.rows, axis=1))
        ranked = _votes(g, _first(g, seen.query, strategy.rows, axis=2), seen, voters)
    elif isinstance(strategy, Cls):
        ranked = _votes(g, _first(g, seen.query, 1, axis=2), seen, None)
    else:
        raise QualaError(f"An export does not know the significance `{strategy.name}`.")
    if model.task.keeps_first:
        ranked = _protect_first(g, ranked)
    return ranked, True


def _first(g: GraphBuilder, values: str, rows: int, *, axis: int) -> str:
    bounds = [g.constant([number], np.int64) for number in (0, rows, axis)]
    return g("Slice", values, *bounds)


def _votes(g: GraphBuilder, query: str, seen: Seen, voters: str | None) -> str:
    """Sum the attention of the rows of `query` over heads and voters: (B, n)."""
    logits = g("MatMul", query, g("Transpose", seen.key, perm=[0, 1, 3, 2]))  # (B, heads, R, n)
    valid = g("Unsqueeze", seen.valid, g.constant([1, 2], np.int64))
    logits = g("Where", valid, logits, g.constant(-np.inf, np.float32))
    heads = g.constant([1], np.int64)
    votes = g("ReduceSum", g("Softmax", logits, axis=-1), heads, keepdims=0)  # (B, R, n)
    if voters is not None:
        weights = g("Cast", voters, to=TensorProto.FLOAT)
        votes = g("Mul", votes, g("Unsqueeze", weights, g.constant([-1], np.int64)))
    return g("ReduceSum", votes, heads, keepdims=0)


def _askers(g: GraphBuilder, question: str) -> str:
    """Return the question's rows, and the first row where none is left."""
    asked = g("Cast", question, to=TensorProto.INT64)
    some = g("ReduceMax", asked, g.constant([1], np.int64), keepdims=1)  # (B, 1)
    none = g("Equal", some, g.constant(0, np.int64))
    rows = g("Gather", g("Shape", question), g.constant(1, np.int64))
    places = g("Range", g.constant(0, np.int64), rows, g.constant(1, np.int64))
    first = g("Equal", places, g.constant(0, np.int64))
    return g("Or", question, g("And", none, first))


def _protect_first(g: GraphBuilder, ranked: str) -> str:
    rows = g("Gather", g("Shape", ranked), g.constant(1, np.int64))
    places = g("Range", g.constant(0, np.int64), rows, g.constant(1, np.int64))
    first = g("Equal", places, g.constant(0, np.int64))
    return g("Where", first, g.constant(np.inf, np.float32), ranked)


def _span(g: GraphBuilder, head: nn.Module, seen: Seen, boost: float) -> str:
    logits = linear(g, seen.hidden, head)  # (B, n, 2)
    real = g("Unsqueeze", seen.valid, g.constant([-1], np.int64))
    logits = g("Where", real, logits, g.constant(-np.inf, np.float32))
    likely = g("ReduceMax", g("LogSoftmax", logits, axis=1), g.constant([2], np.int64), keepdims=0)
    tokens = g("Cast", seen.valid, to=TensorProto.FLOAT)
    tokens = g("ReduceSum", tokens, g.constant([1], np.int64), keepdims=1)  # (B, 1)
    asked = g("Sub", g.constant(math.log(boost), np.float32), g("Log", tokens))
    return g("Where", seen.question, asked, likely)
