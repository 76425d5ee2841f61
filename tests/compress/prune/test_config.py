"""The ways to an end: LadaBERT's ratio, ROSITA's sizes, oBERTa's zeros, step by step."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from quala.architecture import Architecture, LayerSizes, Structure
from quala.compress.prune.config import HybridConfig, ShrinkConfig, ratio_steps
from quala.errors import QualaError

BERT = Architecture(
    family="bert", hidden=768, intermediate=3072, layers=12, heads=12, vocabulary=30522,
    positions=512, type_vocabulary=2,
)  # fmt: skip


def sizes(arch: Architecture = BERT, **options: Any) -> dict[str, list[int]]:
    """Return each size after each step."""
    steps = [one.sizes(arch) for one in ShrinkConfig(**options).one_by_one()]
    return {name: [step[name] for step in steps] for name in steps[0]}


def test_the_steps_multiply_to_the_ratio_by_one_factor() -> None:
    steps = ratio_steps(8.0, 3)
    assert steps == pytest.approx([2.0, 4.0, 8.0])
    assert ratio_steps(5.0, 1) == [5.0]


@pytest.mark.parametrize("values", [{"ratio": 1.0}, {"ratio": 2.0, "svd_share": 1.1}])
def test_senseless_configs_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(QualaError, match="must be"):
        HybridConfig(**values)


def test_steps_of_nothing_are_refused() -> None:
    with pytest.raises(QualaError, match="a step"):
        ratio_steps(2.0, 0)


def test_rosita_removes_the_same_amount_in_each_step() -> None:
    found = sizes(
        heads=2, neurons=512, layers=8, embedding_rank=128, steps=5, schedule="linear"
    )  # fmt: skip
    assert found == {
        "heads": [10, 8, 6, 4, 2],
        "neurons": [2560, 2048, 1536, 1024, 512],
        "layers": [11, 10, 10, 9, 8],  # 11.2, 10.4, 9.6, 8.8, 8
        "embedding_rank": [640, 512, 384, 256, 128],
    }


def test_the_other_schedules_of_sizes() -> None:
    assert sizes(heads=0.25, steps=2) == {"heads": [6, 3]}  # 12 -> 6 -> 3
    # 3072 (0.25 + 0.75 (1 - k / 4)^3): 1740, 1056, 804, 768
    assert sizes(neurons=768, steps=4, schedule="cubic") == {"neurons": [1740, 1056, 804, 768]}


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("linear", [0.2, 0.4, 0.6, 0.8]),
        ("cubic", [0.4625, 0.7, 0.7875, 0.8]),  # 0.8 (1 - (1 - k / 4)^3)
        ("geometric", [1 - 0.2**0.25, 1 - 0.2**0.5, 1 - 0.2**0.75, 0.8]),
    ],
)
def test_zeros_of_each_step(schedule: Any, wanted: list[float]) -> None:
    steps = ShrinkConfig(sparsity=0.8, steps=4, schedule=schedule).one_by_one()
    assert [one.sparsity_now() for one in steps] == pytest.approx(wanted)
    assert steps[-1].sparsity_now() == 0.8
    assert ShrinkConfig(sparsity=0.8).sparsity_now() == 0.8


def test_a_ratio_may_take_another_way() -> None:
    steps = ShrinkConfig(4.0, steps=3, schedule="linear").one_by_one()
    assert [1 / one.now().ratio for one in steps] == pytest.approx([0.75, 0.5, 0.25])
    assert steps[-1].now().ratio == 4.0


def test_sizes_begin_at_those_of_the_largest_layer_and_of_the_factors() -> None:
    layers = (LayerSizes(4, 1024), *(LayerSizes(6, 512),) * 11)
    arch = dataclasses.replace(BERT, structure=Structure(layers, embedding_rank=200))
    found = sizes(arch, heads=2, neurons=0.5, embedding_rank=100, steps=2, schedule="linear")
    assert found == {"heads": [4, 2], "neurons": [768, 512], "embedding_rank": [150, 100]}
    with pytest.raises(QualaError, match="at most the 200 that the model has, got 201"):
        sizes(arch, embedding_rank=201)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "needs one of ratio, heads, neurons, layers, embedding_rank, sparsity"),
        ({"sparsity": 1.0}, "`sparsity` must be above 0 and below 1, got 1.0"),
        ({"heads": 0}, "`heads` must be above 0"),
        ({"heads": 1.0}, "`heads` must be a share below 1 or a count of 2 or more, got 1"),
        ({"neurons": 2.5}, "`neurons` must be a share below 1 or a count .*, got 2.5"),
        ({"ratio": 2.0, "sparsity": 0.5}, "`ratio` and `sparsity` both set weights to zero"),
        ({"ratio": 2.0, "embedding_rank": 9}, "`embeddings` must be false, got true"),
    ],
)
def test_options_that_say_nothing_or_two_things_are_refused(
    options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(QualaError, match=sentence):
        ShrinkConfig(**options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"heads": 0.04}, "`shrink.heads` must leave one at least, got 0.04 of 12"),
        ({"neurons": 1e-4}, "`shrink.neurons` must leave one at least"),
        ({"heads": 13}, "`shrink.heads` must be at most the 12 that the model has, got 13"),
        ({"layers": 13}, "`shrink.layers` must be at most the 12"),
        # 30522 x 768 / (30522 + 768) = 749.15
        ({"embedding_rank": 750}, "`shrink.embedding_rank` must be below 749.15, .* got 750"),
    ],
)
def test_an_end_that_the_model_cannot_reach_is_refused(
    options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(QualaError, match=sentence):
        ShrinkConfig(**options).ends(BERT)
    assert ShrinkConfig(embedding_rank=749).ends(BERT) == {"embedding_rank": 749}
