"""Which layers a student copies, and which it follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import pytest

from quala.compress.layer_maps import (
    LAYER_MAPS,
    LayerMap,
    followed_by_embeddings,
    hidden_pairs,
    layer_pairs,
    layers_to_keep,
    uniform_layers,
)
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
        ([0, 1], 2, [(0, 0), (1, 1)]),
        ([0, 4], 6, [(0, 0), (1, 4)]),
    ],
)
def test_maps_of_a_student_of_two_layers(
    layer_map: Sequence[int], teacher: int, expected: list[tuple[int, int]]
) -> None:
    assert layer_pairs(layer_map, teacher=teacher, student=2) == expected


@pytest.mark.parametrize("layer_map", [[0], [0, 6], [-1, 2]])
def test_maps_that_do_not_fit_are_refused(layer_map: Sequence[int]) -> None:
    with pytest.raises(QualaError):
        layer_pairs(layer_map, teacher=6, student=2)


def test_hidden_states_count_the_embeddings_first() -> None:
    assert hidden_pairs([(0, 2), (1, 5)]) == [(0, 0), (1, 3), (2, 6)]


@pytest.mark.parametrize(
    ("name", "kept", "states"),
    [
        ("xtc", 6, [0, 2, 4, 6, 8, 10, 12]),
        ("xtc", 5, [1, 3, 5, 7, 9, 11]),
        ("uniform", 5, [0, 2, 4, 7, 9, 12]),
    ],
)
def test_states_that_are_followed_are_those_of_the_released_code(
    name: str, kept: int, states: list[int]
) -> None:
    layers = layers_to_keep(name, depth=12, kept=kept)
    pairs = layer_pairs(layers, teacher=12, student=kept)
    found = hidden_pairs(pairs, followed_by_embeddings(name, pairs))
    assert found == list(enumerate(states))
    if name == "xtc":  # teacher_layer, as the code has it
        assert states == [layers[0] - 1, *(layer + 1 for layer in layers)]


def test_embeddings_of_a_copy_of_the_first_layer_follow_embeddings() -> None:
    assert followed_by_embeddings("xtc", [(0, 0), (1, 3)]) == 0


@pytest.mark.parametrize(
    ("name", "depth", "kept", "layers"),
    [
        ("xtc", 12, 6, [1, 3, 5, 7, 9, 11]),
        ("xtc", 12, 5, [2, 4, 6, 8, 10]),
        ("tinybert", 12, 4, [2, 5, 8, 11]),
        ("tinybert", 12, 6, [1, 3, 5, 7, 9, 11]),
        ("uniform", 12, 5, [1, 3, 6, 8, 11]),
        ("top", 12, 8, [4, 5, 6, 7, 8, 9, 10, 11]),
        ("bottom", 6, 2, [0, 1]),
        ("symmetric", 12, 6, [0, 1, 2, 9, 10, 11]),
        ("symmetric", 6, 3, [0, 1, 5]),
        ("symmetric", 6, 1, [0]),
    ],
)
def test_the_known_maps(name: str, depth: int, kept: int, layers: list[int]) -> None:
    assert layers_to_keep(name, depth=depth, kept=kept) == layers


@pytest.mark.parametrize("name", sorted(set(LAYER_MAPS) - {"xtc", "tinybert"}))
@pytest.mark.parametrize("kept", range(1, 8))
def test_every_map_rises_within_the_depth(name: str, kept: int) -> None:
    layers = layers_to_keep(name, depth=7, kept=kept)
    assert len(layers) == kept
    assert layers == sorted(set(layers) & set(range(7)))


def test_kept_layers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(QualaError, match="12 to 6, 12 to 5"):
        layers_to_keep("xtc", depth=6, kept=3)
    with pytest.raises(QualaError, match="divisor"):
        layers_to_keep("tinybert", depth=12, kept=5)


@pytest.mark.parametrize("kept", [0, 7])
def test_more_layers_than_there_are_are_refused(kept: int) -> None:
    with pytest.raises(QualaError, match="1 to 6"):
        layers_to_keep("top", depth=6, kept=kept)


def test_an_unknown_map_names_the_nearest() -> None:
    with pytest.raises(QualaError, match="Did you mean `uniform`"):
        layers_to_keep("unifrom", depth=6, kept=3)


def test_a_configuration_takes_every_map() -> None:
    assert set(get_args(LayerMap)) == set(LAYER_MAPS)
