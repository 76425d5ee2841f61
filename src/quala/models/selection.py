"""Which tokens of each example stay at a layer, and how dropped ones are restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quala.errors import QualaError


@dataclass(frozen=True, slots=True, eq=False)
class Drop:
    """One drop, from n tokens to m.

    `values` are the K outputs of the head for the n tokens before the layer, or their K hidden
    states if the head has a hidden layer; None for a task without outputs per token.
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
    ids: Tensor | None = None  # (B, n) token ids, where they choose the feed-forward
    positions: Tensor | None = None  # (B, n) places in the input, where the attention needs them
    related: Any = None  # what `Family.relate` made of them
    real: tuple[int, ...] = ()  # tokens that example b began with, without padding
    drops: tuple[Drop, ...] = ()
    dropped: Tensor | None = None  # (B, H) sum of the hidden states of dropped tokens
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


def select(
    scores: Tensor,
    valid: Tensor | None,
    *,
    keep: tuple[int, ...],
    natural: bool,
    protect_first: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the places kept (B, m), and which of them are no fillers, and which no padding.

    Raises QualaError for several lengths in one batch under `reference` semantics.
    """
    if natural:
        index, taken = select_sorted(scores, valid, keep=keep, protect_first=protect_first)
        return index, taken, taken
    if min(keep) != max(keep):
        raise QualaError(f"`reference` semantics keep one length per batch, got {keep}.")
    index = select_ranked(scores, keep=keep[0], protect_first=protect_first)
    return index, None, None if valid is None else gather_tokens(valid, index)


def select_sorted(
    scores: Tensor, valid: Tensor | None, *, keep: Sequence[int], protect_first: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the places (B, m) of the `keep[b]` best tokens in the order of the text.

    m is the largest `keep`. An example that keeps fewer has fillers at its end: the second tensor
    (B, m) is False there, and None without fillers. Of equal scores the earlier token stays.
    """
    tokens = scores.shape[1]
    if valid is not None:
        scores = scores.masked_fill(~valid, -torch.inf)
    if protect_first:
        scores = scores.index_fill(1, scores.new_zeros(1, dtype=torch.long), torch.inf)
    width = max(keep)
    index = scores.sort(dim=1, descending=True, stable=True).indices[:, :width]  # (B, m)
    if min(keep) == width:
        return index.sort(dim=1).values, None
    counts = torch.tensor(keep, device=index.device).unsqueeze(1)  # (B, 1)
    taken = torch.arange(width, device=index.device) < counts  # (B, m)
    index = index.masked_fill(~taken, tokens).sort(dim=1).values
    return index.clamp(max=tokens - 1), taken


def select_ranked(scores: Tensor, *, keep: int, protect_first: bool) -> Tensor:
    """Return the places (B, keep) of the best tokens, best first, as the published code does.

    With `protect_first` the first token leads and the others compete for the rest.
    """
    if not protect_first:
        return scores.sort(dim=1, descending=True, stable=True).indices[:, :keep]
    rest = scores[:, 1:].sort(dim=1, descending=True, stable=True).indices[:, : keep - 1] + 1
    return F.pad(rest, (1, 0))


def gather_tokens(values: Tensor, index: Tensor) -> Tensor:
    """Take the tokens at `index` (B, m) out of `values` (B, n) or (B, n, K)."""
    batch, tokens = values.shape[:2]
    start = torch.arange(0, batch * tokens, tokens, device=index.device).unsqueeze(1)  # (B, 1)
    # Whole rows are copied: several times faster than gather, above all backwards.
    rows = values.flatten(0, 1).index_select(0, (index + start).flatten())
    return rows.reshape(*index.shape, *values.shape[2:])


def restore(values: Tensor, drops: Sequence[Drop]) -> Tensor:
    """Return values (B, n, K): `values` (B, m, K) of the tokens left, the drops' of the others."""
    for drop in reversed(drops):
        if drop.values is None:
            raise ValueError("`restore` needs the values of every drop, got a drop without.")
        base, index, tokens = drop.values, drop.index, drop.values.shape[1]
        if drop.valid is not None:
            # Fillers write to one more place, which is then cut off.
            index = torch.where(drop.valid, index, tokens)
            base = F.pad(base, (0, 0, 0, 1))
        places = index.unsqueeze(-1).expand_as(values)
        values = base.scatter(1, places, values)[:, :tokens]  # (B, n, K)
    return values
