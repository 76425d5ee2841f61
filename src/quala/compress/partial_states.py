"""The part of a teacher's hidden states that a cache keeps (arXiv 2106.05691).

Depth: some of the states. Length: the tokens that [CLS] attends to most. Width: the entries of
largest absolute value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quala.errors import QualaError
from quala.models.selection import Trace

Pairs = list[tuple[int, int]]


@dataclass(frozen=True, slots=True, eq=False)
class KeptState:
    """What is kept of one hidden state (B, n, H) of a batch: M tokens, w entries of each."""

    example: Tensor  # (M,) int64, row of the batch
    token: Tensor  # (M,) int64, place in that row
    values: Tensor  # (M, w)
    columns: Tensor | None  # (M, w) int64, rising; None where all H entries are kept
    hidden: int  # H


def spread_states(student: int, *, top: int, teacher: int) -> Pairs:
    """Return pairs of hidden states, the student's spread evenly over the teacher's 0 to `top`.

    A `top` of 8 is the published `t_top8`. State 0 is the embedding output; ties round to even.

    Raises:
        QualaError: when the teacher has fewer layers than `top`, or `top` fewer than the student.
    """
    if not student <= top <= teacher:
        raise QualaError(f"`top` must be {student} to {teacher} layers of the teacher, got {top}.")
    return [(state, round(state * top / student)) for state in range(student + 1)]


def some_states(
    pairs: Sequence[tuple[int, int]], *, depth: int | None, states: Sequence[int] | None
) -> Pairs:
    """Return the pairs of the `depth` highest student states, or of the given ones; None is all.

    Raises:
        QualaError: for more or other states than there are.
    """
    known = [own for own, _ in pairs]
    if depth is not None and depth > len(known):
        raise QualaError(f"`depth` must be at most {len(known)} hidden states, got {depth}.")
    if states is not None and not set(states) <= set(known):
        raise QualaError(f"`states` must be among {known}, got {list(states)}.")
    wanted = sorted(known)[-depth:] if depth is not None else known
    wanted = wanted if states is None else list(states)
    return [pair for pair in pairs if pair[0] in wanted]


def cls_attention(queries: Tensor, keys: Tensor, *, mask: Tensor) -> Tensor:
    """Return the attention that the first token pays to each, the mean over heads: (B, n).

    Args:
        queries: (B, h, n, d) of one layer.
        keys: likewise.
        mask: (B, n), 1 for real tokens; padding receives 0.
    """
    scores = (queries[:, :, :1] / math.sqrt(queries.shape[-1])) @ keys.transpose(-1, -2)
    scores = scores.float().masked_fill(~mask.bool()[:, None, None, :], -torch.inf)
    return scores.softmax(dim=-1).mean(dim=1)[:, 0]  # (B, h, 1, n) to (B, n)


def most_attended(attention: Tensor, candidates: Tensor, *, tokens: int) -> Tensor:
    """Return which candidates (B, n) are among the `tokens` most attended ones of their row.

    A row of fewer candidates keeps all of them. Of equal ones the earlier is first.
    """
    ranked = attention.masked_fill(~candidates, -torch.inf)
    order = ranked.argsort(dim=1, descending=True, stable=True)
    first = torch.zeros_like(candidates)
    first.scatter_(1, order[:, :tokens], True)
    return first & candidates


def entries(hidden: int, width: float) -> int:
    """Return how many entries a share `width` of `hidden` ones is, at least 1."""
    return max(1, round(hidden * width))


def keep_state(hidden: Tensor, chosen: Tensor, *, width: float = 1.0) -> KeptState:
    """Return the chosen tokens' entries of largest absolute value, a share `width` of each.

    Args:
        hidden: (B, n, H).
        chosen: (B, n) bool.
        width: above 0, at most 1.
    """
    example, token = chosen.nonzero(as_tuple=True)
    values = hidden[example, token].detach()  # (M, H)
    size = values.shape[1]
    count = entries(size, width)
    if count == size:
        return KeptState(example, token, values, None, size)
    columns = values.abs().topk(count, dim=1).indices.sort(dim=1).values  # (M, w)
    return KeptState(example, token, values.gather(1, columns), columns, size)


def keep_states(
    trace: Trace,
    states: Sequence[int],
    *,
    candidates: Tensor,
    tokens: int | None = None,
    width: float = 1.0,
) -> list[KeptState]:
    """Return the kept part of a teacher's hidden states, 0 the embedding output.

    Tokens are ranked by the attention of the layer that computes the state; for the embeddings it
    is the attention of the first layer.

    Args:
        trace: the teacher's full-length pass.
        states: their numbers.
        candidates: (B, n) bool, the tokens to choose from: real ones without [SEP].
        tokens: how many of them are kept; None keeps all real tokens, [SEP] as well.
        width: see `keep_state`.
    """
    kept = []
    for state in states:
        chosen = trace.mask
        if tokens is not None:
            layer = max(0, state - 1)
            attention = cls_attention(trace.queries[layer], trace.keys[layer], mask=trace.mask)
            chosen = most_attended(attention, candidates, tokens=tokens)
        kept.append(keep_state(trace.hidden[state], chosen, width=width))
    return kept


def squared_error(own: Tensor, goal: Tensor) -> Tensor:
    """Return the mean squared difference of states (M, H)."""
    return (own - goal).square().mean()


def cosine_error(own: Tensor, goal: Tensor) -> Tensor:
    """Return one minus the cosine of states (M, H), the mean over rows."""
    return (1 - nn.functional.cosine_similarity(own, goal, dim=-1)).mean()


def kept_loss(
    student: Sequence[Tensor],
    kept: Sequence[tuple[int, KeptState]],
    *,
    projection: Callable[[Tensor], Tensor] | None = None,
    error: Callable[[Tensor, Tensor], Tensor] = squared_error,
) -> Tensor:
    """Return the error on the kept part: mean over its entries or tokens, sum over states.

    It equals `hidden_loss` where all real tokens and all entries are kept.

    Args:
        student: hidden states (B, n, H_s), entry 0 the embedding output.
        kept: a student state's number, and the kept part of the teacher's state that it follows.
        projection: maps H_s to the teacher's width; needed where they differ.
        error: that of states (M, w), a row a token.

    Raises:
        QualaError: for widths that differ without a projection, or no state at all.
    """
    if not kept:
        raise QualaError("No hidden state of the teacher was kept; keep at least one.")
    terms = []
    for state, goal in kept:
        own = student[state][goal.example, goal.token]  # (M, H_s)
        own = projection(own) if projection is not None else own
        if own.shape[-1] != goal.hidden:
            raise QualaError(
                f"Hidden states of width {own.shape[-1]} and {goal.hidden} need a projection."
            )
        own = own if goal.columns is None else own.gather(1, goal.columns)
        terms.append(error(own, goal.values))
    return torch.stack(terms).sum()
