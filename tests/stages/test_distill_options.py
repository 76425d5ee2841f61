"""What may be cached of a teacher, and which of its states teach then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toys import BuildHf, build_hf

from quala.compress.prune.config import HybridConfig
from quala.compress.quantize.config import QuantizeConfig
from quala.errors import QualaError
from quala.stages.distill_options import CacheConfig, ShrinkConfig, check_zeros, shrink_steps
from quala.stages.teacher import followed_states
from quala.workflow.identity import revisions

__all__ = ["build_hf"]

LITTLE = CacheConfig(depth=1, tokens=10, width=0.1)
LOSSES = {"hard": 0.5, "soft": 1.0, "hidden": 1.0, "attention": 0.0, "relation": 0.0}


@pytest.mark.parametrize(
    ("options", "states"),
    [
        ({}, [(0, 0), (1, 1), (2, 2)]),
        ({"depth": 2}, [(1, 1), (2, 2)]),
        ({"states": [0]}, [(0, 0)]),
        ({"top": 4}, [(0, 0), (1, 2), (2, 4)]),
        ({"top": 3, "depth": 1}, [(2, 3)]),
    ],
)
def test_which_states_teach(options: dict[str, Any], states: list[tuple[int, int]]) -> None:
    pairs = [(0, 0), (1, 1)]
    found = followed_states(CacheConfig(**options), pairs, student=2, teacher=4)
    assert found == states


def test_cached_states_follow_as_others_do() -> None:
    found = followed_states(CacheConfig(), [(0, 2)], student=1, teacher=4, embeddings=1)
    assert found == [(0, 1), (1, 3)]


@pytest.mark.parametrize(
    ("options", "revised"),
    [
        ({"keep_map": "xtc", "layers": 5}, True),
        ({"keep_map": "xtc", "layers": 6}, False),
        ({"keep_map": "uniform", "layers": 5}, False),
        ({"keep_map": "xtc", "layers": 5, "hidden": 0.0}, False),
    ],
)
def test_only_what_embeddings_now_follow_otherwise_is_computed_again(
    configure: Any, options: dict[str, Any], revised: bool
) -> None:
    found = revisions(configure("distill", **{**LOSSES, **options}))
    assert found == ({"keep_map": "embeddings"} if revised else {})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"attention": 1.0}, "`attention`, which needs heads, must be 0, got 1.0"),
        ({"relation": 0.5}, "`relation`, which needs attention, must be 0, got 0.5"),
        ({"soft": 0.0, "hidden": 0.0}, "nothing to store: give `soft` or `hidden` a weight"),
        (
            {"cache": CacheConfig(top=2), "layer_map": [1]},
            r"Either `layer_map` or `cache.top` .* got \[1\] and 2",
        ),
        (
            {"hidden_loss": "cosine", "cache": CacheConfig(width=0.1)},
            "`hidden_loss=cosine` compares whole states: `cache.width` must be 1, got 0.1",
        ),
    ],
)
def test_what_a_cache_cannot_teach_is_refused(
    configure: Any, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(QualaError, match=sentence):
        configure("distill", **{"cache": LITTLE, **LOSSES, **options})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"depth": 0}, "`depth` must be at least 1 and .*, got 0"),
        ({"top": 0}, "`top` must be at least 1 and .*, got 0"),
        ({"tokens": -1}, "`tokens` must be at least 1 and .*, got -1"),
        ({"width": 0.0}, "`width` must be above 0 and at most 1, got 0.0"),
        ({"width": 1.5}, "`width` must be above 0 and at most 1, got 1.5"),
        ({"states": []}, "`states` must name a hidden state"),
        ({"depth": 1, "states": [2]}, r"`depth` or `states`, got 1 and \[2\]"),
    ],
)
def test_options_outside_their_range_are_refused(options: Any, sentence: str) -> None:
    with pytest.raises(QualaError, match=sentence):
        CacheConfig(**options)


BINARY: dict[str, Any] = {"weight_quantizer": "bwn", "weight_bits": 1}
BINARY_WORDS: dict[str, Any] = {"embedding_quantizer": "bwn", "embedding_bits": 1}


def test_each_training_takes_one_step_of_the_ratio() -> None:
    config = ShrinkConfig(8.0, svd_share=0.25, embeddings=False, steps=3)
    steps = shrink_steps(config)
    assert [step.step for step in steps] == [1, 2, 3]
    assert [step.now().ratio for step in steps] == pytest.approx([2.0, 4.0, 8.0])
    assert [step.last for step in steps] == [False, False, True]
    assert {step.ratio for step in steps} == {8.0}
    assert steps[0].now() == HybridConfig(steps[0].now().ratio, svd_share=0.25, embeddings=False)


def test_one_step_is_the_whole_ratio() -> None:
    alone = ShrinkConfig(5.0)
    assert alone.now() == shrink_steps(alone)[0].now() == HybridConfig(5.0)
    assert alone.last


def test_several_steps_want_a_workflow() -> None:
    with pytest.raises(QualaError, match=r"`shrink\.steps` is 4, .* workflow `ladabert`"):
        ShrinkConfig(5.0, steps=4).now()


def test_nothing_has_no_steps() -> None:
    with pytest.raises(QualaError, match=r"`stage\.distill\.shrink` is null"):
        shrink_steps(None)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"ratio": 0.5}, "`ratio` must be above 1 and .*, got 0.5"),
        ({"ratio": 2.0, "svd_share": -0.1}, "`svd_share` must be at least 0 and .*, got -0.1"),
        ({"ratio": 2.0, "steps": 0}, "`steps` must be at least 1 and .*, got 0"),
        ({"ratio": 2.0, "steps": 2, "step": 3}, "`step` must be 1 to 2, got 3"),
        ({"ratio": 2.0, "step": 0}, "`step` must be at least 1 and .*, got 0"),
    ],
)
def test_senseless_values_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(QualaError, match=sentence):
        ShrinkConfig(**values)


@pytest.mark.parametrize(
    ("options", "embeddings", "name"),
    [(BINARY, False, "weight"), (BINARY_WORDS, True, "embedding")],
)
def test_a_grid_without_zero_is_refused(
    options: dict[str, Any], embeddings: bool, name: str
) -> None:
    config = ShrinkConfig(2.0, embeddings=embeddings)
    with pytest.raises(QualaError, match=f"`{name}_quantizer=bwn` has no code"):
        check_zeros(config, QuantizeConfig(**options))


@pytest.mark.parametrize(
    ("options", "embeddings"),
    [({}, True), (BINARY_WORDS, False), (BINARY_WORDS | {"quantize_embeddings": False}, True)],
)
def test_other_grids_hold_zeros(options: dict[str, Any], embeddings: bool) -> None:
    check_zeros(ShrinkConfig(2.0, embeddings=embeddings), QuantizeConfig(**options))


@pytest.mark.parametrize(
    ("family", "options", "sentence"),
    [
        ("mpnet", {"width": 0.5}, r"`width`\) cannot be removed: all layers of MPNet"),
        ("modernbert", {"layers": 1}, "must keep layer 0, got layers 2"),
        ("modernbert", {"keep": [1, 2], "layers": None}, "must keep layer 0, got layers 1, 2"),
        ("modernbert", {"layers": 2, "keep_map": "symmetric"}, None),
        ("mpnet", {"layers": 1}, None),
    ],
)
def test_what_a_family_cannot_do_is_refused_before_any_stage(
    configure: Any,
    build_hf: BuildHf,
    tmp_path: Path,
    family: str,
    options: dict[str, Any],
    sentence: str | None,
) -> None:
    build_hf(family).config.save_pretrained(tmp_path)
    config, teacher = configure("distill", **options), Named("model.teacher", str(tmp_path))
    if sentence is None:
        config.check_inputs({"teacher": teacher})
        return
    with pytest.raises(QualaError, match=sentence):
        config.check_inputs({"teacher": teacher})


class Named:
    """What a start model in a folder is to a plan."""

    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value
