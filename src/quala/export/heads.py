"""Sentence classification heads as ONNX nodes."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from quala.export.builder import GraphBuilder
from quala.export.layers import linear


def span_head(hf: PreTrainedModel) -> nn.Module:
    """Return the linear layer that answers token by token."""
    return cast("nn.Module", hf.qa_outputs)


def sentence_head(g: GraphBuilder, hf: PreTrainedModel, hidden: str) -> str:
    """Return the logits (B, C) that the family's head reads from the first token."""
    first = g("Gather", hidden, g.constant(0, np.int64), axis=1)  # (B, H)
    parts: Any = hf
    kind = hf.config.model_type
    if kind == "bert":
        pooled = g("Tanh", linear(g, first, parts.bert.pooler.dense))
        return linear(g, pooled, parts.classifier)
    if kind == "distilbert":
        pooled = g("Relu", linear(g, first, parts.pre_classifier))
        return linear(g, pooled, parts.classifier)
    bend = "Gelu" if kind == "electra" else "Tanh"
    pooled = g(bend, linear(g, first, parts.classifier.dense))
    return linear(g, pooled, parts.classifier.out_proj)
