"""Choosing tokens, gathering them, and laying them back."""

from __future__ import annotations

import pytest
import torch

from quala.models.selection import (
    Drop,
    gather_tokens,
    restore,
    select_ranked,
    select_sorted,
)

SCORES = torch.tensor([[0.1, 0.9, 0.5, 0.7], [0.8, 0.2, 0.3, 0.4]])


def test_the_best_stay_in_the_order_of_the_text() -> None:
    index, valid = select_sorted(SCORES, None, keep=[2, 2], protect_first=False)
    assert index.tolist() == [[1, 3], [0, 3]]
    assert valid is None


def test_rows_that_keep_fewer_are_marked() -> None:
    index, valid = select_sorted(SCORES, None, keep=[3, 1], protect_first=False)
    assert index[0].tolist() == [1, 2, 3]
    assert int(index[1, 0]) == 0
    assert valid is not None
    assert valid.tolist() == [[True] * 3, [True, False, False]]


def test_a_protected_first_token_stays() -> None:
    index, _ = select_sorted(SCORES, None, keep=[2, 2], protect_first=True)
    assert index.tolist() == [[0, 1], [0, 3]]


def test_padding_goes_first() -> None:
    valid = torch.tensor([[True, False, True, False], [True] * 4])
    index, _ = select_sorted(SCORES, valid, keep=[2, 2], protect_first=False)
    assert index.tolist() == [[0, 2], [0, 3]]


def test_the_earlier_of_equal_scores_stays() -> None:
    index, _ = select_sorted(torch.zeros(1, 100), None, keep=[3], protect_first=False)
    assert index.tolist() == [[0, 1, 2]]
    assert select_ranked(torch.zeros(1, 100), keep=3, protect_first=False).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("protect", "expected"),
    [(False, [[1, 3, 2], [0, 3, 2]]), (True, [[0, 1, 3], [0, 3, 2]])],
)
def test_ranked_tokens_stand_best_first(protect: bool, expected: list[list[int]]) -> None:
    assert select_ranked(SCORES, keep=3, protect_first=protect).tolist() == expected


def test_gather_takes_each_examples_own_tokens() -> None:
    values = torch.arange(12).view(2, 3, 2)
    taken = gather_tokens(values, torch.tensor([[2, 0], [1, 1]]))
    assert taken.tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]


def test_restore_lays_survivors_over_the_rest() -> None:
    first = Drop(torch.tensor([[0, 2, 3]]), None, torch.tensor([[[1.0], [2], [3], [4]]]))
    second = Drop(torch.tensor([[1]]), None, torch.tensor([[[10.0], [20], [30]]]))
    restored = restore(torch.tensor([[[100.0]]]), (first, second))
    assert restored.flatten().tolist() == [10, 2, 100, 30]


def test_fillers_overwrite_nothing() -> None:
    valid = torch.tensor([[True, True], [True, False]])
    drop = Drop(torch.tensor([[0, 1], [0, 2]]), valid, torch.zeros(2, 3, 1))
    restored = restore(torch.ones(2, 2, 1), (drop,))
    assert restored[..., 0].tolist() == [[1, 1, 0], [1, 0, 0]]


def test_restore_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the values"):
        restore(torch.ones(1, 1, 1), (Drop(torch.tensor([[0]]), None, None),))
