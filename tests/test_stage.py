"""A stage by itself, and its progress."""

from __future__ import annotations

import logging
from itertools import repeat
from pathlib import Path

import pytest

from quala import stage as progress_module
from quala.stage import Pace
from quala.workflow import Candidate, StageContext


def test_a_context_alone_has_folders_and_tracks_nothing(tmp_path: Path) -> None:
    context = StageContext.alone("x", tmp_path)
    context.log_metrics({"a": 1.0}, step=1)
    context.log_candidates([Candidate("c", {"f1": 1.0})])
    assert context.output.is_dir()
    assert context.scratch.is_dir()


def test_progress_without_a_terminal_is_a_line_now_and_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "SECONDS_BETWEEN_LINES", 0.0)
    caplog.set_level(logging.INFO, logger="quala")
    with StageContext.alone("x", tmp_path).progress("training", 4) as progress:
        progress.note("loss 0.5")
        progress.advance(2)
    assert "training: 50 %" in caplog.text
    assert "loss 0.5" in caplog.text


def estimates(moves: list[tuple[float, float]], total: float) -> list[float | None]:
    """Return what is left after each move: seconds since the one before, and an amount."""
    now, found = [0.0], []
    pace = Pace(total, clock=lambda: now[0])
    for seconds, amount in moves:
        now[0] += seconds
        pace.move(amount)
        found.append(pace.left())
    return found


def test_nothing_is_estimated_before_enough_was_seen() -> None:
    found = estimates([(60.0, 1), *repeat((1.0, 1), 20)], 100)
    assert found[:4] == [None] * 4
    assert found[4] is not None


def test_the_first_steps_are_no_measure_of_the_others() -> None:
    found = estimates([(60.0, 1), (9.0, 1), *repeat((1.0, 1), 97)], 100)
    assert found[4] == pytest.approx(95)
    assert found[-1] == pytest.approx(1)


def test_steps_that_a_resumed_training_finds_done_take_no_time() -> None:
    found = estimates([(0.0, 0), (0.1, 900), *repeat((2.0, 1), 20)], 1000)
    assert found[-1] == pytest.approx(2 * 80)


def test_candidates_that_are_scored_together_are_one_move() -> None:
    group = [(40.0, 1), *repeat((0.001, 1), 7)]
    found = estimates(group * 6, 96)
    assert found[: 8 * 4] == [None] * (8 * 4)
    assert found[-1] == pytest.approx(40 / 8 * 48, rel=0.01)


def test_the_estimate_follows_a_pace_that_changes() -> None:
    found = estimates([*repeat((1.0, 1), 20), *repeat((10.0, 1), 60)], 100)
    assert found[-1] == pytest.approx(10 * 20, rel=0.05)


def test_long_trainings_keep_few_moves() -> None:
    found = estimates([*repeat((0.5, 1), 5000)], 10_000)
    assert found[-1] == pytest.approx(0.5 * 5000, rel=0.01)


@pytest.mark.parametrize(
    ("step", "text"),
    [(0.5, ", 48 s left"), (6.0, ", 10 min left"), (360.0, ", 9.5 h left")],
)
def test_the_time_left_is_in_words(step: float, text: str) -> None:
    now = [0.0]
    pace = Pace(100, clock=lambda: now[0])
    assert pace.text() == ""
    for _ in range(5):
        now[0] += step
        pace.move(1)
    assert pace.text() == text
