"""A stage by itself, and its progress."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from quala import stage as progress_module
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
