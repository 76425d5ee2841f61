from __future__ import annotations

from collections.abc import Sequence

import pytest

from quala.compress.layer_maps import hidden_pairs, layer_pairs, uniform_layers
from quala.errors import QualaError


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (12, 6, [1, 3, 5, 7, 9, 11]),
        (12, 4, [2, 5, 8, 11]),
        (6, 6, [0, 1, 2, 3, 4, 5]),
        (12, 5, [1, 3, 6, 8, 11]),
        (3, 1, [2]),
    ],
)
def test_uniform_layers_end_on_the_last(teacher: int, student: int, expected: list[int]) -> None:
    assert uniform_layers(teacher, student) == expected


@pytest.mark.parametrize("student", [0, 13])
def test_a_student_deeper_than_its_teacher_is_refused(student: int) -> None:
    with pytest.raises(QualaError, match="12"):
        uniform_layers(12, student)


@pytest.mark.parametrize(
    ("layer_map", "teacher", "expected"),
    [
        ("identity", 2, [(0, 0), (1, 1)]),
        ("uniform", 6, [(0, 2), (1, 5)]),
        ("last", 6, [(1, 5)]),
        ([0, 4], 6, [(0, 0), (1, 4)]),
    ],
)
def test_maps_of_a_student_of_two_layers(
    layer_map: str | Sequence[int], teacher: int, expected: list[tuple[int, int]]
) -> None:
    assert layer_pairs(layer_map, teacher=teacher, student=2) == expected


@pytest.mark.parametrize("layer_map", ["identity", "first", [0], [0, 6], [-1, 2]])
def test_maps_that_do_not_fit_are_refused(layer_map: str | Sequence[int]) -> None:
    with pytest.raises(QualaError):
        layer_pairs(layer_map, teacher=6, student=2)


def test_hidden_states_count_the_embeddings_first() -> None:
    assert hidden_pairs([(0, 2), (1, 5)]) == [(0, 0), (1, 3), (2, 6)]
