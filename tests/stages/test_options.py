"""What can be checked without data is refused before anything is trained."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from quala.errors import QualaError
from quala.search.strategy import SearchSettings
from quala.stages import STAGES
from quala.stages.result_options import row_name


@pytest.mark.parametrize(
    ("stage", "options", "sentence"),
    [
        (
            "finetune",
            {"learning_rate": -1.0},
            "`learning_rate` must be at least 0 and .*, got -1.0",
        ),
        ("finetune", {"warmup_ratio": 1.5}, "`warmup_ratio` must be at least 0 and at most 1"),
        ("finetune", {"hidden_dropout": 1.0}, "`hidden_dropout` must be at least 0 and below 1"),
        ("finetune", {"epochs": 0}, "`epochs` must be above 0 and .*, got 0"),
        ("finetune", {"checkpoint_minutes": 0}, "`checkpoint_minutes` must be above 0"),
        ("length_adapt", {"significance": "colum_sum"}, "Did you mean `column_sum`"),
        ("length_adapt", {"bound": 1.0}, "`bound` must be at least 0 and below 1, got 1.0"),
        (
            "length_adapt",
            {"temperature": 0.0},
            "`temperature` must be at least 0.01 and .*, got 0.0",
        ),
        ("length_adapt", {"num_sandwich": -1}, "`num_sandwich` must be at least 0 and .*, got -1"),
        (
            "length_adapt",
            {"semantics": "reference", "significance": "cls"},
            "`significance=column_sum`, got cls",
        ),
        ("distill", {"significance": "questions"}, "Did you mean `question`"),
        ("distill", {"significance": "span"}, "ranks tokens by the span head at every layer"),
        ("distill", {"keep": [2, 1]}, r"`keep` must be rising layer numbers, got \[2, 1\]"),
        ("distill", {"layer_map": [-1]}, "`layer_map` must be at least 0 and .*, got -1"),
        ("distill", {"layers": 0}, "`layers` must be at least 1 and .*, got 0"),
        ("distill", {"hidden": -0.1}, "`hidden` must be at least 0 and .*, got -0.1"),
        ("distill", {"temperature": 0.0}, "`temperature` must be at least 0.01 and .*, got 0.0"),
        ("quantize", {"quantizer_learning_rate": -1.0}, "`quantizer_learning_rate` must be"),
        ("search", {"floor": 1.0}, "`floor` must be at least 0 and below 1, got 1.0"),
        ("search", {"mutations": 0, "crossovers": 0}, "at least 1 together, got 0 and 0"),
        ("measure", {"reference": "bert-bas"}, "Did you mean `bert-base`"),
        ("measure", {"latency_inputs": 0}, "`latency_inputs` must be at least 1 and .*, got 0"),
        ("export", {"threads": 0}, "`threads` must be at least 1 and .*, got 0"),
        ("measure", {"name": "../../x"}, "`name` must be letters, digits"),
        (
            "report",
            {"title": "a\nb"},
            "`title` must be one line without control characters, got U",
        ),
    ],
)
def test_a_value_out_of_range_is_one_sentence(
    configure: Any, stage: str, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(QualaError, match=sentence):
        configure(stage, **options)


@pytest.mark.parametrize("stage", ["distill", "length_adapt"])
def test_a_significance_of_ones_own_is_imported_at_once(configure: Any, stage: str) -> None:
    own = "quala.models.significance.Cls"
    assert configure(stage, significance=own).significance == own
    with pytest.raises(QualaError, match=r"The significance `my\.Ranking` cannot be imported"):
        configure(stage, significance="my.Ranking")


OF_SEARCH = {item.name for item in dataclasses.fields(SearchSettings)}


@pytest.mark.parametrize("name", sorted(OF_SEARCH - {"seed", "strategy", "prior", "min_score"}))
def test_numbers_of_a_search_have_a_range_of_their_own(configure: Any, name: str) -> None:
    with pytest.raises(QualaError, match=f"`{name}` must be"):
        configure("search", **{name: -1})


@pytest.mark.parametrize("name", STAGES)
def test_every_number_of_a_training_has_a_range(name: str) -> None:
    free = {"seed", "min_score", "max_loss"} | OF_SEARCH
    for item in dataclasses.fields(STAGES[name].config):
        if item.type in ("int", "float", "int | None", "float | None"):
            assert "range" in item.metadata or item.name in free, f"{name}.{item.name}"


@pytest.mark.parametrize(
    ("workflow", "name"), [("kdlsq", "kdlsq"), ("quala_minilm", "quala"), ("mine", "mine")]
)
def test_rows_have_the_name_of_their_workflow(workflow: str, name: str) -> None:
    assert row_name(workflow) == name


@pytest.mark.parametrize(
    ("score", "told"),
    [(0.8, ["`min_score=0.8` is 0.8 of 100 points; did you mean 80?"]), (80, []), (None, [])],
)
def test_a_share_in_place_of_points_is_questioned(
    configure: Any, score: float | None, told: list[str]
) -> None:
    assert configure("search", min_score=score).remarks() == told
    assert configure("measure", max_loss=0.01).remarks() == []
