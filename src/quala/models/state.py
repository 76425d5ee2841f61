"""What a forward pass carries from step to step; immutable, so that passes can share steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Restore = Literal["logits", "hidden", "nothing"]


@dataclass(frozen=True, slots=True, eq=False)
class Drop:
    """One drop, from n tokens to m.

    `values` are what the n tokens carried when they came to the layer: the span head's numbers
    (K = outputs) or the hidden states (K = H); None where nothing has to be restored.
    """

    index: Tensor  # (B, m) places among the n tokens
    valid: Tensor | None  # (B, m) bool, None when every place is taken
    values: Tensor | None  # (B, n, K)


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The tokens still present, and what is needed to restore the others.

    Between `attend` and `narrow`, `inputs` are the hidden states before the layer and `scores`
    the tokens' significance.
    """

    hidden: Tensor  # (B, n, H)
    valid: Tensor | None  # (B, n) bool, None when no row is padded
    question: Tensor  # (B, n) bool, the question's tokens
    question_rows: int  # most question tokens that an example of the batch began with
    present: tuple[int, ...]  # tokens that example b still has
    restore: Restore
    drops: tuple[Drop, ...] = ()
    inputs: Tensor | None = None  # (B, n, H)
    scores: Tensor | None = None  # (B, n)


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Every intermediate of a full-length pass, for distillation."""

    logits: Tensor  # (B, n, outputs) or (B, outputs)
    hidden: tuple[Tensor, ...]  # layers + 1 of (B, n, H), the embeddings first
    queries: tuple[Tensor, ...]  # layers of (B, heads, n, d)
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor  # (B, n) bool, True on real tokens
