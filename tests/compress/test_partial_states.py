"""What is kept of hidden states, against loops over examples, tokens and entries."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from quala.compress.losses import hidden_loss
from quala.compress.partial_states import (
    KeptState,
    cls_attention,
    cosine_error,
    entries,
    keep_state,
    keep_states,
    kept_loss,
    most_attended,
    some_states,
    spread_states,
)
from quala.errors import QualaError
from quala.models.selection import Trace

MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]).bool()
SEPARATORS = torch.tensor([[0, 0, 1, 0, 0, 1], [0, 1, 0, 1, 0, 0]]).bool()
PAIRS = [(0, 0), (1, 2)]
ALL_PAIRS = [(0, 0), (1, 2), (2, 4), (3, 6)]


def _states(count: int, width: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 6, width, generator=generator) for _ in range(count)]


@pytest.fixture
def trace() -> Trace:
    """A teacher of two layers, two heads, width 8; attention far from uniform."""
    generator = torch.Generator().manual_seed(4)
    queries, keys = (
        tuple(3 * torch.randn(2, 2, 6, 4, generator=generator) for _ in range(2)) for _ in range(2)
    )
    hidden = tuple(_states(3, 8, seed=1))
    return Trace(torch.zeros(2, 6, 2), hidden, queries, keys, keys, MASK)


def _attention(trace: Trace, layer: int, example: int) -> list[float]:
    """Return what the first token pays to each real one, head by head."""
    real = int(MASK[example].sum())
    paid = [0.0] * real
    for head in range(2):
        query = trace.queries[layer][example, head, 0].tolist()
        scores = []
        for token in range(real):
            key = trace.keys[layer][example, head, token].tolist()
            scores.append(math.exp(sum(a * b for a, b in zip(query, key)) / math.sqrt(4)))
        for token in range(real):
            paid[token] += scores[token] / sum(scores) / 2
    return paid


def _kept(trace: Trace, state: int, *, tokens: int, count: int) -> list[tuple[int, int, set[int]]]:
    """Return the kept tokens of a state, and the columns kept of each."""
    found = []
    for example in range(2):
        paid = _attention(trace, max(0, state - 1), example)
        allowed = [token for token in range(len(paid)) if not SEPARATORS[example, token]]
        best = sorted(allowed, key=lambda token: -paid[token])[:tokens]
        for token in sorted(best):
            row = trace.hidden[state][example, token].tolist()
            largest = sorted(range(8), key=lambda column: -abs(row[column]))[:count]
            found.append((example, token, set(largest)))
    return found


@pytest.mark.parametrize(
    ("student", "top", "expected"),
    [
        (6, 8, [0, 1, 3, 4, 5, 7, 8]),
        (6, 10, [0, 2, 3, 5, 7, 8, 10]),
        (4, 10, [0, 2, 5, 8, 10]),
        (6, 12, [0, 2, 4, 6, 8, 10, 12]),
        (2, 2, [0, 1, 2]),
    ],
)
def test_states_are_spread_below_the_top(student: int, top: int, expected: list[int]) -> None:
    assert spread_states(student, top=top, teacher=12) == list(enumerate(expected))


@pytest.mark.parametrize("top", [5, 13])
def test_a_top_must_fit_both_depths(top: int) -> None:
    with pytest.raises(QualaError, match=f"`top` must be 6 to 12 .* got {top}"):
        spread_states(6, top=top, teacher=12)


@pytest.mark.parametrize(
    ("depth", "states", "expected"),
    [
        (None, None, ALL_PAIRS),
        (1, None, [(3, 6)]),
        (4, None, ALL_PAIRS),
        (None, [3, 1], [(1, 2), (3, 6)]),
    ],
)
def test_depth_counts_from_the_top(
    depth: int | None, states: list[int] | None, expected: list[tuple[int, int]]
) -> None:
    assert some_states(ALL_PAIRS, depth=depth, states=states) == expected


def test_states_that_are_not_there_are_refused() -> None:
    with pytest.raises(QualaError, match="`depth` must be at most 4 hidden states, got 5"):
        some_states(ALL_PAIRS, depth=5, states=None)
    with pytest.raises(QualaError, match=r"`states` must be among \[0, 1, 2, 3\], got \[2, 4\]"):
        some_states(ALL_PAIRS, depth=None, states=[2, 4])


def test_attention_is_the_mean_over_heads_on_real_tokens(trace: Trace) -> None:
    found = cls_attention(trace.queries[1], trace.keys[1], mask=MASK)
    for example in range(2):
        expected = _attention(trace, 1, example)
        assert found[example, : len(expected)].tolist() == pytest.approx(expected, rel=1e-5)
        assert found[example, len(expected) :].eq(0).all()


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (1, [[0, 1, 0, 0], [1, 0, 0, 0]]),
        (2, [[0, 1, 0, 1], [1, 1, 0, 0]]),
        (9, [[1, 1, 0, 1], [1, 1, 0, 0]]),
    ],
)
def test_the_most_attended_candidates_are_kept(tokens: int, expected: list[list[int]]) -> None:
    attention = torch.tensor([[0.1, 0.3, 0.4, 0.2], [0.25, 0.25, 0.25, 0.25]])
    candidates = torch.tensor([[1, 1, 0, 1], [1, 1, 0, 0]]).bool()
    assert most_attended(attention, candidates, tokens=tokens).int().tolist() == expected


@pytest.mark.parametrize(
    ("hidden", "width", "expected"), [(384, 0.1, 38), (8, 1.0, 8), (8, 0.01, 1), (8, 0.99, 8)]
)
def test_a_share_of_the_width_is_one_entry_at_least(
    hidden: int, width: float, expected: int
) -> None:
    assert entries(hidden, width) == expected


@pytest.mark.parametrize("tokens", [1, 3, 6])
@pytest.mark.parametrize("width", [0.125, 0.5, 1.0])
@pytest.mark.parametrize("state", [0, 1, 2])
def test_what_is_kept_is_what_loops_keep(
    trace: Trace, state: int, tokens: int, width: float
) -> None:
    candidates = MASK & ~SEPARATORS
    (kept,) = keep_states(trace, [state], candidates=candidates, tokens=tokens, width=width)
    expected = _kept(trace, state, tokens=tokens, count=round(8 * width))
    places = list(zip(kept.example.tolist(), kept.token.tolist()))
    assert places == [(example, token) for example, token, _ in expected]
    for row, (example, token, columns) in enumerate(expected):
        found = range(8) if kept.columns is None else kept.columns[row].tolist()
        assert set(found) == columns
        assert torch.equal(kept.values[row], trace.hidden[state][example, token, list(found)])


def test_the_loss_is_the_mean_over_kept_entries_and_the_sum_over_states(trace: Trace) -> None:
    student = _states(2, 8, seed=0)
    expected = 0.0
    for own, goal in PAIRS:
        errors = [
            (student[own][example, token, column] - trace.hidden[goal][example, token, column])
            .square()
            .item()
            for example, token, columns in _kept(trace, goal, tokens=2, count=2)
            for column in columns
        ]
        expected += sum(errors) / len(errors)
    kept = keep_states(trace, [0, 2], candidates=MASK & ~SEPARATORS, tokens=2, width=0.25)
    found = kept_loss(student, [(0, kept[0]), (1, kept[1])])
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_all_of_it_is_the_hidden_loss(trace: Trace) -> None:
    student = _states(2, 8, seed=0)
    kept = keep_states(trace, [0, 2], candidates=MASK & ~SEPARATORS)
    found = kept_loss(student, [(0, kept[0]), (1, kept[1])])
    assert torch.equal(found, hidden_loss(student, trace.hidden, pairs=PAIRS, mask=MASK))
    found = kept_loss(student, [(0, kept[0]), (1, kept[1])], error=cosine_error)
    cosine = hidden_loss(student, trace.hidden, pairs=PAIRS, mask=MASK, measure="cosine")
    assert torch.equal(found, cosine)


def test_only_the_student_learns_and_only_where_something_is_kept() -> None:
    student, teacher = (_states(1, 8, seed)[0].requires_grad_() for seed in (0, 1))
    chosen = torch.zeros(2, 6).bool()
    chosen[0, 3] = True
    kept = keep_state(teacher, chosen, width=0.25)
    kept_loss([student], [(0, kept)]).backward()
    assert teacher.grad is None
    assert student.grad is not None
    moved = student.grad.nonzero().tolist()
    assert kept.columns is not None
    assert moved == [[0, 3, column] for column in kept.columns[0].tolist()]


def test_a_projection_bridges_widths_and_learns(trace: Trace) -> None:
    projection = nn.Linear(4, 8)
    (kept,) = keep_states(trace, [2], candidates=MASK, tokens=3, width=0.5)
    kept_loss(_states(2, 4, 0), [(1, kept)], projection=projection).backward()
    assert projection.weight.grad is not None
    assert projection.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_widths_that_differ_need_a_projection(trace: Trace, width: float) -> None:
    (kept,) = keep_states(trace, [2], candidates=MASK, tokens=3, width=width)
    with pytest.raises(QualaError, match="width 4 and 8 need a projection"):
        kept_loss(_states(2, 4, 0), [(1, kept)])


def test_a_loss_of_nothing_is_refused() -> None:
    nothing: list[tuple[int, KeptState]] = []
    with pytest.raises(QualaError, match="keep at least one"):
        kept_loss(_states(1, 4, 0), nothing)
