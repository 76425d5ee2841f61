"""A synthetic objective, a fake evaluator, a toy model and its chunks."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import Engine, event
from toys import build, build_hf, make_batch

from quala.lengths import LengthConfig
from quala.search.evaluate import Evaluation

__all__ = ["build", "build_hf", "make_batch"]

WEIGHTS = (30.0, 12.0, 5.0, 2.0, 1.0, 0.5)


def toy_cost(lengths: LengthConfig) -> float:
    """Cost like a transformer layer: linear and quadratic in what reaches it."""
    before = (lengths.sequence_length, *lengths.lengths)
    return float(sum(b + b * b / 100 + 2 * a for b, a in zip(before, lengths.lengths)))


def toy_score(lengths: LengthConfig) -> float:
    """Early drops cost most, and what a layer loses saturates."""
    shares = [length / lengths.sequence_length for length in lengths.lengths]
    return 90.0 - sum(w * (1 - share) ** 2 for w, share in zip(WEIGHTS, shares))


class FakeEvaluator:
    """Scores by a function and remembers what it was asked."""

    def __init__(self, *, fail_after: int | None = None) -> None:
        self.asked: list[LengthConfig] = []
        self.recalled: list[Evaluation] = []
        self.fail_after = fail_after

    def cost(self, lengths: LengthConfig) -> float:
        return toy_cost(lengths)

    def evaluate(self, configs: Sequence[LengthConfig]) -> list[Evaluation]:
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked.extend(configs)
        return [
            Evaluation(c, toy_cost(c), toy_score(c), examples=(toy_score(c),)) for c in configs
        ]

    def recall(self, scored: Sequence[Evaluation]) -> None:
        self.recalled.extend(scored)


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests need not survive a power cut; syncing the study is most of their time."""

    def unsynced(connection: Any, _: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous=OFF")

    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    event.listen(Engine, "connect", unsynced)
    yield
    event.remove(Engine, "connect", unsynced)


@pytest.fixture
def cost() -> Callable[[LengthConfig], float]:
    return toy_cost


@pytest.fixture
def score() -> Callable[[LengthConfig], float]:
    return toy_score


@pytest.fixture
def fake() -> type[FakeEvaluator]:
    return FakeEvaluator
