"""The one shape in which examples reach a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired, TypedDict

if TYPE_CHECKING:
    from torch import Tensor


class Batch(TypedDict):
    """Tensors of B features, padded at the right to n tokens.

    `segment_ids` is 0 on [CLS] question [SEP] (or the single sentence) and on padding, 1 on
    context [SEP]. `labels` is int64 (B, 2) for spans, (B, 1) for classes, float32 (B, 1) for
    regression, and absent at inference.
    """

    input_ids: Tensor  # (B, n) int64
    attention_mask: Tensor  # (B, n) int64, 1 = real token
    segment_ids: Tensor  # (B, n) int64
    feature: Tensor  # (B,) int64, row of the FeatureSet
    labels: NotRequired[Tensor]  # (B, D)
