"""How much a token matters: the attention that it receives, or the span head's prediction for it.

Each strategy is written twice side by side: for PyTorch, and as the nodes of an exported graph.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from quala.errors import QualaError
from quala.onnx_builder import GraphBuilder
from quala.plugins import SIGNIFICANCE


def row_softmax(logits: Tensor) -> Tensor:
    """Return the softmax over the last dimension."""
    return logits.softmax(dim=-1)


def onnx_softmax(g: GraphBuilder, logits: str) -> str:
    """Add a softmax over the last dimension."""
    return g("Softmax", logits, axis=-1)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The inputs of a strategy: tensors of a layer after its attention.

    `query` and `key` carry their positions, where the family rotates them.
    """

    query: Tensor  # (B, heads, n, d)
    key: Tensor  # (B, heads, n, d)
    valid: Tensor | None  # (B, n) bool, real tokens; None when all are
    question: Tensor  # (B, q) bool, the question's tokens among the first q rows
    hidden: Tensor  # (B, n, H)
    span: Callable[[Tensor], Tensor]  # the span head: (B, n, H) to (B, n, 2)
    bias: Tensor | None = None  # (1 or B, 1 or heads, n, n), added to the products
    scale: float | None = None  # of the products; None: 1 / sqrt(d)
    softmax: Callable[[Tensor], Tensor] = row_softmax  # that of the attention


@dataclass(frozen=True, slots=True, eq=False)
class GraphView:
    """The names of the same tensors in a graph; `query` is already scaled."""

    query: str  # (B, heads, n, d)
    key: str  # (B, heads, n, d)
    valid: str  # (B, n) bool
    question: str  # (B, n) bool
    hidden: str  # (B, n, H)
    span: Callable[[GraphBuilder, str], str]  # adds the span head: (B, n, H) to (B, n, 2)
    bias: str | None = None  # (1 or B, 1 or heads, n, n)
    softmax: Callable[[GraphBuilder, str], str] = onnx_softmax  # adds it


class Significance(ABC):
    """Score the tokens present at a layer; a higher score stays longer.

    A new strategy is a subclass whose constructor needs no arguments. It defines `scores`, and
    `onnx` for exports; both must give the same scores.
    """

    name: str = ""
    """What the configuration calls it; `significance` sets it."""
    needs_span_head: ClassVar[bool] = False
    """Whether the scores come from the span head. Such a strategy needs question answering and a
    head that was trained on the hidden states of every layer: `length_adapt` with `exits` above 0
    trains one, a distillation does not."""
    is_published: ClassVar[bool] = False
    """Whether `reference` semantics rank by it."""
    needs_text_order: ClassVar[bool] = True
    """Whether an exported graph puts the tokens that stay back into the order of the text. False
    saves time, for scores that do not depend on which rows come first."""

    @abstractmethod
    def scores(self, view: View) -> Tensor:
        """Return scores (B, n) without a gradient, the same whether padding is there or not."""

    def onnx(self, g: GraphBuilder, view: GraphView) -> str:
        """Add the nodes that compute `scores`, and return the name of their output (B, n).

        Raises QualaError for a strategy that does not define it.
        """
        raise QualaError(
            f"An export needs a significance with a method `onnx`, got `{self.name}` without one."
        )


@dataclass
class ColumnSum(Significance):
    """The attention that a token receives from all tokens (arXiv 2001.08950)."""

    is_published: ClassVar[bool] = True

    def scores(self, view: View) -> Tensor:
        return _attention_from(view, view.query.shape[2], counted=view.valid)

    def onnx(self, g: GraphBuilder, view: GraphView) -> str:
        return _onnx_attention_from(g, view, None, counted=view.valid)


@dataclass
class QueryRows(Significance):
    """The attention from the first rows present: [CLS] and the start of the question.

    A fixed number of rows makes the work the same for every example.
    """

    rows: int = 16

    def scores(self, view: View) -> Tensor:
        counted = None if view.valid is None else view.valid[:, : self.rows]
        return _attention_from(view, self.rows, counted=counted)

    def onnx(self, g: GraphBuilder, view: GraphView) -> str:
        counted = _first(g, view.valid, self.rows, axis=1)
        return _onnx_attention_from(g, view, self.rows, counted=counted)


@dataclass
class Question(Significance):
    """The attention from the question's rows; from the first row where none of them is left."""

    rows: int = 64

    def scores(self, view: View) -> Tensor:
        counted = view.question[:, : self.rows]  # (B, R)
        first = counted[:, :1] | ~counted.any(dim=1, keepdim=True)
        counted = torch.cat([first, counted[:, 1:]], dim=1)
        return _attention_from(view, counted.shape[1], counted=counted)

    def onnx(self, g: GraphBuilder, view: GraphView) -> str:
        question = _first(g, view.question, self.rows, axis=1)
        asked = g("Cast", question, to=TensorProto.INT64)
        some = g("ReduceMax", asked, g.constant([1], np.int64), keepdims=1)  # (B, 1)
        none = g("Equal", some, g.constant(0, np.int64))
        counted = g("Or", question, g("And", none, is_first(g, question)))
        return _onnx_attention_from(g, view, self.rows, counted=counted)


@dataclass
class Cls(Significance):
    """The attention from the first row present: from [CLS] wherever it is protected."""

    def scores(self, view: View) -> Tensor:
        return _attention_from(view, 1, counted=None)

    def onnx(self, g: GraphBuilder, view: GraphView) -> str:
        return _onnx_attention_from(g, view, 1, counted=None)


@dataclass
class Span(Significance):
    """The log-probability that a token starts or ends the answer, by the span head at this layer.

    A token of the question has the log-probability of `boost` times chance, which is 1 / n.
    """

    needs_span_head: ClassVar[bool] = True
    needs_text_order: ClassVar[bool] = False
    boost: float = 8.0

    @torch.no_grad()
    def scores(self, view: View) -> Tensor:
        logits = view.span(view.hidden).float()  # (B, n, 2)
        tokens = logits.new_full((len(logits), 1), logits.shape[1])
        if view.valid is not None:
            logits = logits.masked_fill(~view.valid.unsqueeze(-1), -torch.inf)
            tokens = view.valid.sum(dim=1, keepdim=True)
        likely = logits.log_softmax(dim=1).amax(dim=2)  # (B, n)
        question = F.pad(view.question, (0, logits.shape[1] - view.question.shape[1]))
        return torch.where(question, math.log(self.boost) - tokens.log(), likely)

    def onnx(self, g: GraphBuilder, view: GraphView) -> str:
        logits = view.span(g, view.hidden)  # (B, n, 2)
        real = g("Unsqueeze", view.valid, g.constant([-1], np.int64))
        logits = g("Where", real, logits, g.constant(-np.inf, np.float32))
        likely = g("LogSoftmax", logits, axis=1)
        likely = g("ReduceMax", likely, g.constant([2], np.int64), keepdims=0)  # (B, n)
        tokens = g("Cast", view.valid, to=TensorProto.FLOAT)
        tokens = g("ReduceSum", tokens, g.constant([1], np.int64), keepdims=1)  # (B, 1)
        boosted = g("Sub", g.constant(math.log(self.boost), np.float32), g("Log", tokens))
        return g("Where", view.question, boosted, likely)


@torch.no_grad()
def _attention_from(view: View, rows: int, *, counted: Tensor | None) -> Tensor:
    """Sum the attention over heads and the `counted` (B, rows) of the first `rows`: (B, n)."""
    scale = view.query.shape[-1] ** -0.5 if view.scale is None else view.scale
    query = view.query[:, :, :rows] * scale  # (B, heads, R, d)
    logits = query @ view.key.transpose(-1, -2)  # (B, heads, R, n)
    if view.bias is not None:
        logits = logits + view.bias[:, :, :rows]
    if view.valid is not None:
        logits = logits.masked_fill(~view.valid[:, None, None, :], -torch.inf)
    received: Tensor = view.softmax(logits).sum(dim=1)  # (B, R, n)
    if counted is not None:
        received = received * counted.unsqueeze(-1)
    return received.sum(dim=1)


def _onnx_attention_from(
    g: GraphBuilder, view: GraphView, rows: int | None, *, counted: str | None
) -> str:
    """Sum the attention over heads and the `counted` (B, R) of the first `rows`: (B, n).

    None sums over all rows.
    """
    query = view.query if rows is None else _first(g, view.query, rows, axis=2)
    logits = g("MatMul", query, g("Transpose", view.key, perm=[0, 1, 3, 2]))  # (B, heads, R, n)
    if view.bias is not None:
        bias = view.bias if rows is None else _first(g, view.bias, rows, axis=2)
        logits = g("Add", logits, bias)
    valid = g("Unsqueeze", view.valid, g.constant([1, 2], np.int64))
    logits = g("Where", valid, logits, g.constant(-np.inf, np.float32))
    heads = g.constant([1], np.int64)
    received = g("ReduceSum", view.softmax(g, logits), heads, keepdims=0)  # (B, R, n)
    if counted is not None:
        weights = g("Cast", counted, to=TensorProto.FLOAT)
        received = g("Mul", received, g("Unsqueeze", weights, g.constant([-1], np.int64)))
    return g("ReduceSum", received, heads, keepdims=0)


def _first(g: GraphBuilder, values: str, rows: int, *, axis: int) -> str:
    bounds = [g.constant([number], np.int64) for number in (0, rows, axis)]
    return g("Slice", values, *bounds)


def is_first(g: GraphBuilder, rows: str) -> str:
    """Add nodes that mark the first of the rows (B, n): (n,) bool."""
    count = g("Gather", g("Shape", rows), g.constant(1, np.int64))
    places = g("Range", g.constant(0, np.int64), count, g.constant(1, np.int64))
    return g("Equal", places, g.constant(0, np.int64))


def significance(name: str) -> Significance:
    """Return a strategy by its built-in or installed name, or by the dotted path of its class.

    Raises QualaError for another name, and for a path to something else.
    """
    strategy: Significance = SIGNIFICANCE.find(name)
    strategy.name = name
    return strategy
