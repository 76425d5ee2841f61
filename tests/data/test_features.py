"""Batches of one length."""

from __future__ import annotations

from quala.data.features import equal_lengths


def test_rows_of_one_length_stand_together_longest_first() -> None:
    assert equal_lengths([3, 5, 3, 5, 3, 1], 2) == [[1, 3], [0, 2], [4], [5]]


def test_only_the_rows_asked_for() -> None:
    assert equal_lengths([3, 5, 3, 5, 3, 1], 8, [4, 3, 2]) == [[3], [4, 2]]
