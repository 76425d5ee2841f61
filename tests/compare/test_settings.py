"""Labels: short, and as different as the settings."""

from __future__ import annotations

import itertools

import pytest

from quala.compare.settings import all_differences, differing, labels, natural_order

BITS, EMBEDDINGS = "distill.quantizers.weight_bits", "distill.quantizers.embedding_bits"
BASE = {"finetune.epochs": "2", "distill.soft": "1", "distill.hidden": "1", BITS: "2",
        EMBEDDINGS: "2"}  # fmt: skip
FOUR = {**BASE, BITS: "4", EMBEDDINGS: "4"}
HARD = {**BASE, "distill.soft": "0", "distill.hidden": "0"}


def test_one_option_that_differs_is_the_label() -> None:
    assert labels([BASE, FOUR]) == ["weight_bits=2", "weight_bits=4"]


def test_what_most_have_is_left_out_where_several_options_differ() -> None:
    assert labels([BASE, FOUR, HARD]) == ["base", "weight_bits=4", "soft=0"]


def test_what_a_person_named_is_told() -> None:
    assert labels([BASE, FOUR, HARD], {"distill.hidden", "distill.soft"}) == [
        "base", "weight_bits=4", "soft=hidden=0",
    ]  # fmt: skip


def test_one_setting_needs_no_label() -> None:
    assert labels([BASE]) == [""]


def test_options_of_two_stages_keep_the_stage() -> None:
    found = labels([
        {"distill.steps": "1", "refine.steps": "1"},
        {"distill.steps": "2", "refine.steps": "1"},
        {"distill.steps": "1", "refine.steps": "2"},
    ])  # fmt: skip
    assert found == ["base", "distill.steps=2", "refine.steps=2"]


def test_an_option_of_a_stage_used_twice_is_told_once() -> None:
    settings = [
        {"step_1.shrink.ratio": ratio, "step_2.shrink.ratio": ratio} for ratio in ("5", "10")
    ]
    named = set(settings[0])
    assert labels(settings, named) == ["ratio=5", "ratio=10"]
    once = [{"step_1.shrink.ratio": "2"}, *settings]
    assert labels(once, named) == ["ratio=2", "ratio=5", "ratio=10"]


def test_an_option_that_differs_between_two_uses_is_told_twice() -> None:
    settings = [{"step_1.rate": "1", "step_2.rate": rate} for rate in ("1", "3")]
    settings.append({"step_1.rate": "2", "step_2.rate": "1"})
    found = labels(settings, {"step_1.rate", "step_2.rate"})
    assert found == ["base", "step_2.rate=3", "step_1.rate=2"]


def test_an_option_that_is_null_is_off() -> None:
    assert labels([{"a.x": "1"}, {}]) == ["x=1", "x=off"]


def test_labels_are_as_different_as_settings() -> None:
    values = itertools.product("12", "12", "123")
    settings = [{"a.x": x, "a.y": y, "b.z": z} for x, y, z in values]
    assert len(set(labels(settings))) == len(settings)
    assert len(set(labels(settings, {"b.z"}))) == len(settings)


def test_differing_options_keep_their_order() -> None:
    assert differing([BASE, FOUR, HARD]) == ["distill.soft", "distill.hidden", BITS, EMBEDDINGS]


@pytest.mark.parametrize(("setting", "bits"), [(0, "2"), (1, "4")])
def test_all_differences_are_told_in_full(setting: int, bits: str) -> None:
    assert all_differences([BASE, FOUR])[setting] == f"{BITS}={bits}, {EMBEDDINGS}={bits}"


def test_labels_sort_with_the_base_first_and_numbers_by_value() -> None:
    expected = ["base", "ratio=2.5", "ratio=5", "ratio=10", "ratio=10, svd_share=0", "soft=0"]
    mixed = [expected[place] for place in (3, 5, 0, 2, 4, 1)]
    assert sorted(mixed, key=natural_order) == expected
