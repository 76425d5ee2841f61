"""How a distilled student ranks tokens where no length adaptation follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quala.checkpoint import load_with_data
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.stages import distill
from quala.workflow import StageContext


@pytest.fixture
def ranked(configure: Any, spec: DataSpec, tiny_checkpoint: Path, tmp_path: Path) -> Any:
    """Return a distillation as a function: options in, the ranking that the next stage reads."""

    def done(*, name: str = "first", model: Path | None = None, **changes: Any) -> tuple[str, str]:
        inputs = {"data": spec, "teacher": tiny_checkpoint} | ({"model": model} if model else {})
        context = StageContext.alone("distill", tmp_path / name)
        distill.run(configure("distill", max_steps=1, **changes), context, inputs)
        opened = load_with_data(context.output, spec)
        return opened.model.significance.name, opened.model.semantics

    return done


@pytest.mark.parametrize(
    ("options", "ranking"),
    [
        ({}, ("question", "natural")),
        ({"significance": "column_sum"}, ("column_sum", "natural")),
        ({"significance": "column_sum", "semantics": "reference"}, ("column_sum", "reference")),
    ],
)
def test_the_student_carries_its_ranking(
    ranked: Any, options: dict[str, str], ranking: tuple[str, str]
) -> None:
    assert ranked(**options) == ranking


def test_a_second_distillation_keeps_the_ranking_or_sets_it(ranked: Any, tmp_path: Path) -> None:
    ranked(significance="column_sum")
    first = tmp_path / "first/output"
    assert ranked(name="kept", model=first) == ("column_sum", "natural")
    assert ranked(name="set", model=first, significance="cls") == ("cls", "natural")


def test_a_rounded_student_carries_its_ranking(ranked: Any) -> None:
    from quala.compress.quantize.config import QuantizeConfig

    options = {"significance": "column_sum", "quantizers": QuantizeConfig(), "relation": 0.0}
    assert ranked(**options) == ("column_sum", "natural")


@pytest.mark.parametrize("significance", [None, "question"])
def test_published_lengths_need_the_published_ranking(
    configure: Any, significance: str | None
) -> None:
    with pytest.raises(QualaError, match="`significance=column_sum`, got"):
        configure("distill", semantics="reference", significance=significance)


def test_a_ranking_of_ones_own_by_the_span_head_is_refused(ranked: Any) -> None:
    with pytest.raises(QualaError, match="span head at every layer, which only `length_adapt`"):
        ranked(significance="quala.models.significance.Span")
