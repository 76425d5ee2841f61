"""The choice: the cheapest point that keeps its promise, counted with its error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quala.errors import QualaError
from quala.lengths import LengthConfig, Units
from quala.search.evaluate import standard_error
from quala.search.result import SearchCandidate, SearchResult, choose, read_result


def candidate(kept: int, score: float, error: float | None = None) -> SearchCandidate:
    lengths = LengthConfig((kept, kept), 128)
    return SearchCandidate(lengths, float(kept), score, 0, "seed", examples=10, error=error)


def result(*candidates: SearchCandidate) -> SearchResult:
    return SearchResult(candidates, cheapest=0.0, dearest=128.0)


FULL = candidate(128, 85.0, 0.0)
LONG, SHORT = candidate(96, 84.8, 0.3), candidate(64, 84.4, 0.6)


def test_at_even_odds_the_loss_counts_as_seen() -> None:
    assert choose(result(SHORT, LONG, FULL), max_loss=1.0, certainty=0.5) == SHORT


def test_the_choice_names_its_unit(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="quala"):
        choose(result(SHORT, LONG, FULL), max_loss=0.01, certainty=0.5)
    assert "0.01 of 100 points" in caplog.text


def test_certainty_asks_more_of_an_uncertain_point() -> None:
    # 0.6 + 1.64 * 0.6 is above 1, 0.2 + 1.64 * 0.3 is below.
    assert choose(result(SHORT, LONG, FULL), max_loss=1.0, certainty=0.95) == LONG
    assert choose(result(SHORT, LONG, FULL), max_loss=1.6, certainty=0.95) == SHORT
    assert choose(result(SHORT, LONG, FULL), max_loss=0.1, certainty=0.95) == FULL


def test_without_errors_points_are_taken_at_their_word() -> None:
    found = result(*(replace(one, error=None) for one in (SHORT, LONG, FULL)))
    assert choose(found, max_loss=1.0, certainty=0.95).lengths == SHORT.lengths


def test_the_loss_is_against_the_full_length_though_a_point_beats_it() -> None:
    lucky = candidate(100, 86.0, 0.5)
    assert choose(result(SHORT, lucky, FULL), max_loss=0.6, certainty=0.5) == SHORT


def test_where_no_point_is_sure_nothing_is_dropped() -> None:
    beaten, lucky = replace(FULL, score=84.0), candidate(96, 84.1, 5.0)
    assert choose(result(lucky, beaten), max_loss=1.0, certainty=0.95) == beaten
    forbidden = replace(beaten, feasible=False)
    assert choose(result(lucky, forbidden), max_loss=1.0, certainty=0.95) == lucky


def test_a_search_without_the_full_length_is_measured_by_its_best() -> None:
    assert choose(result(SHORT, LONG), max_loss=0.5, certainty=0.5) == SHORT
    assert choose(result(SHORT, LONG), max_loss=0.3, certainty=0.5) == LONG


def test_lengths_of_other_inputs_are_refused() -> None:
    found = result(FULL, SHORT)
    assert found.fitting(sequence_length=128, layers=2) is found
    for sequence_length, layers in ((256, 2), (64, 2), (128, 3)):
        with pytest.raises(QualaError, match=r"layers=2, data\.max_length=128"):
            found.fitting(sequence_length=sequence_length, layers=layers)


def test_points_of_sub_networks_that_a_model_lacks_are_refused() -> None:
    part = (Units(1, 8), None)
    found = result(replace(FULL, lengths=FULL.lengths.of(part)))
    assert found.fitting(sequence_length=128, layers=2, structures=[(), part]) is found
    with pytest.raises(QualaError, match="sub-network `1x8,-`, which the model was not trained"):
        found.fitting(sequence_length=128, layers=2, structures=[])


def test_a_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QualaError, match="no result of a search"):
        read_result(tmp_path)


def test_an_empty_front_is_refused() -> None:
    with pytest.raises(QualaError, match="empty"):
        choose(result(replace(FULL, stopped_early=True)), max_loss=1.0, certainty=0.5)


def test_the_promise_is_kept_as_often_as_certainty_says() -> None:
    """One noisy point, of a true loss at the very bound, is chosen in 5 % of slices."""
    rng = np.random.default_rng(0)
    chosen = 0
    for _ in range(2000):
        losses = rng.normal(1.0, 20.0, size=400)
        point = candidate(64, 85.0 - losses.mean(), float(standard_error(losses)))
        chosen += choose(result(point, FULL), max_loss=1.0, certainty=0.95) == point
    assert 0.035 < chosen / 2000 < 0.065
