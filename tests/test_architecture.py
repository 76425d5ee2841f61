"""Sizes of layers, and what cost makes of them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from quala.architecture import Architecture, LayerSizes, Structure
from quala.cost import PRESETS, macs, parameters, size_bytes
from quala.errors import QualaError

ARCH = Architecture(
    family="bert",
    hidden=4,
    intermediate=8,
    layers=2,
    heads=2,
    vocabulary=10,
    positions=5,
    type_vocabulary=2,
)
STRUCTURE = Structure((LayerSizes(1, 3, (0, 2, 0, 0, 0, 1)), LayerSizes(2, 8)), 3)
SMALL = replace(ARCH, structure=STRUCTURE)


def test_equal_layers_cost_the_same_with_and_without_a_record() -> None:
    minilm = PRESETS["minilm-l6-h384"]
    recorded = replace(minilm, structure=Structure((LayerSizes(12, 1536),) * 6))
    lengths = (300, 251, 242, 159, 142, 33)
    assert macs(recorded, lengths, 384) == macs(minilm, lengths, 384)
    assert parameters(recorded) == parameters(minilm)
    assert size_bytes(recorded, "int8") == size_bytes(minilm, "int8")


def test_parameters_are_counted_by_hand() -> None:
    first = 4 * 2 + 2 + (4 * 2 + 2 * 2 + 2) + 4 * 2 + 2 + (2 * 4 + 4)
    first += 4 * 3 + 3 + (3 * 1 + 1 * 4 + 4)
    second = 4 * (4 * 4 + 4) + (4 * 8 + 8) + (8 * 4 + 4)
    tables = 10 * 3 + 3 * 4 + 7 * 4
    norms, head = 2 * 4 + 2 * (4 * 4), 2 * 5
    assert parameters(SMALL) == first + second + tables + norms + head


def test_macs_are_counted_by_hand() -> None:
    attention = 4 * 2 + (4 * 2 + 2 * 2) + 4 * 2 + 2 * 4
    first = 5 * attention + 2 * 2 * 5**2 + 4 * 5 + 3 * (4 * 3 + 3 * 1 + 1 * 4) + 4 * 3
    second = 3 * 4 * 4 * 4 + 2 * 4 * 3**2 + 4 * 3 + 2 * (2 * 4 * 8) + 4 * 2
    embeddings, head = 5 * (4 + 1 + 3 * 4), 5 * 2 * 4
    assert macs(SMALL, (3, 2), 5) == first + second + embeddings + head


SPLIT = replace(
    ARCH,
    structure=Structure((LayerSizes(1, 3, copies=(2, 2, 2, 2, 1, 2)), LayerSizes(2, 8)), 0, 2),
)


def test_the_halves_of_a_layer_are_counted_twice() -> None:
    first = 2 * (3 * (4 * 2 + 2) + (2 * 4 + 4)) + (4 * 3 + 3) + 2 * (3 * 4 + 4)
    second = 4 * (4 * 4 + 4) + (4 * 8 + 8) + (8 * 4 + 4)
    tables, norms, head = 2 * 10 * 4 + 7 * 4, 2 * 4 + 2 * (4 * 4), 2 * 5
    assert parameters(SPLIT) == first + second + tables + norms + head
    attention, feed = 2 * (4 * 4 * 2), 4 * 3 + 2 * 3 * 4
    first = 5 * attention + 2 * 2 * 5**2 + 4 * 5 + 3 * feed + 4 * 3
    second = 3 * 4 * 4 * 4 + 2 * 4 * 3**2 + 4 * 3 + 2 * (2 * 4 * 8) + 4 * 2
    assert macs(SPLIT, (3, 2), 5) == first + second + 5 * (4 + 1) + 5 * 2 * 4


def test_int8_stores_each_factor_with_its_scales() -> None:
    dense = sum(o * i + 8 * o for i, o in [(4, 2), (4, 2), (2, 4), (4, 3)])
    key = (4 * 2 + 4 * 2) + (2 * 2 + 8 * 2)
    out = (3 * 1 + 4 * 1) + (1 * 4 + 8 * 4)
    second = 4 * (16 + 8 * 4) + (32 + 8 * 8) + (32 + 8 * 4)
    tables = 10 * (3 + 4) + 7 * (4 + 4) + (3 * 4 + 4 * 4)
    rest = 4 * (2 * 4 + 2 * 16 + 2 * 5)
    assert size_bytes(SMALL, "int8") == dense + key + out + second + tables + rest


def test_a_structure_survives_json() -> None:
    assert Structure.from_json(json.loads(json.dumps(STRUCTURE.to_json()))) == STRUCTURE
    assert Structure.from_json(json.loads(json.dumps(asdict(STRUCTURE)))) == STRUCTURE
    assert SPLIT.structure is not None
    assert (
        Structure.from_json(json.loads(json.dumps(SPLIT.structure.to_json()))) == SPLIT.structure
    )


def test_a_structure_written_before_layers_were_split_is_read() -> None:
    facts = STRUCTURE.to_json()
    del facts["embedding_copies"]
    for layer in facts["layers"]:
        del layer["copies"]
    assert Structure.from_json(facts) == STRUCTURE


def test_a_structure_of_another_depth_is_refused() -> None:
    with pytest.raises(QualaError, match="needs 2 layers, got 1"):
        replace(ARCH, structure=Structure(STRUCTURE.layers[:1]))


@pytest.mark.parametrize(("heads", "inner"), [(0, 4), (1, 0)])
def test_an_empty_layer_is_refused(heads: int, inner: int) -> None:
    with pytest.raises(QualaError, match="a head and a neuron"):
        LayerSizes(heads, inner)


@pytest.mark.parametrize("copies", [(1, 2), (1, 1, 1, 1, 1, 0)])
def test_copies_that_are_not_six_are_refused(copies: tuple[int, ...]) -> None:
    with pytest.raises(QualaError, match="six copies"):
        LayerSizes(1, 1, copies=copies)


@pytest.mark.parametrize("ranks", [(1, 2), (0, 0, 0, 0, 0, -1)])
def test_ranks_that_are_not_six_are_refused(ranks: tuple[int, ...]) -> None:
    with pytest.raises(QualaError, match="six ranks"):
        LayerSizes(1, 1, ranks)
