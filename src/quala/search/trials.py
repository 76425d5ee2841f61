"""How a trial of the study tells what the search needs to know about it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import psutil
from optuna.trial import FrozenTrial, TrialState

from quala.lengths import LengthConfig
from quala.search.space import Space
from quala.search.strategy import Known

SLOT = "slot"
ORIGIN = "origin"
STOPPED = "stopped_early"
EXAMPLES = "examples"
WORKER = "worker"
EXHAUSTED = "exhausted"
DUPLICATE_OF = "duplicate_of"
RETRY_OF = "retry_of"

TAKEN = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE)
_SECONDS_WITHOUT_WORKER = 5.0
_SECONDS_ELSEWHERE = 3600.0
_CLOCK_SLACK = 2.0


def lengths_of(trial: FrozenTrial, space: Space) -> LengthConfig | None:
    """Return a trial's gene, None while it is not complete."""
    fixed = trial.system_attrs.get("fixed_params", {})
    return space.from_params({**fixed, **trial.params})


def known_of(trial: FrozenTrial, space: Space) -> Known | None:
    """Return what a finished trial found out, None for any other."""
    lengths = lengths_of(trial, space)
    if trial.state != TrialState.COMPLETE or lengths is None:
        return None
    score, cost = trial.values
    return Known(lengths, cost=cost, score=score, stopped=trial.user_attrs[STOPPED])


def free_slot(trials: Iterable[FrozenTrial]) -> int:
    """Return the first place of the search that no trial holds; failed trials give theirs up."""
    held = {trial.user_attrs.get(SLOT) for trial in trials if trial.state in TAKEN}
    return next(slot for slot in range(len(held) + 1) if slot not in held)


@dataclass(frozen=True, slots=True)
class Worker:
    """A process, told apart from a later one with the same id by its start."""

    host: str
    pid: int
    started: float

    @classmethod
    def this(cls) -> Worker:
        """Return this process."""
        return cls(platform.node(), os.getpid(), psutil.Process().create_time())

    def record(self) -> list[str | int | float]:
        """Return the form that a trial keeps."""
        return [self.host, self.pid, self.started]

    def lives(self) -> bool:
        """Say whether the process still runs, as far as its own host can tell."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < _CLOCK_SLACK
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def abandoned(trial: FrozenTrial) -> bool:
    """Say whether a running trial's worker is dead; of another host only the age can tell."""
    record = trial.user_attrs.get(WORKER)
    if record is None:
        return _age(trial) > _SECONDS_WITHOUT_WORKER
    worker = Worker(*record)
    if worker.host != platform.node():
        return _age(trial) > _SECONDS_ELSEWHERE
    return not worker.lives()


def _age(trial: FrozenTrial) -> float:
    start = trial.datetime_start
    if start is None:
        return 0.0
    began = start if start.tzinfo else start.replace(tzinfo=UTC)
    return time.time() - began.timestamp() if began < datetime.now(UTC) else 0.0


def original_of(
    trial: FrozenTrial, trials: Sequence[FrozenTrial], space: Space
) -> tuple[int | None, bool]:
    """Return the earlier trial with the same gene or slot, and whether one may still become it.

    Two workers may find the same slot free; the one that asked first holds it.
    """
    lengths, slot, undecided = lengths_of(trial, space), trial.user_attrs.get(SLOT), False
    for other in trials:
        if other.number >= trial.number or other.state not in TAKEN:
            continue
        gene = lengths_of(other, space)
        given_up = other.state == TrialState.RUNNING and (
            other.number == trial.user_attrs.get(RETRY_OF) or abandoned(other)
        )
        same = gene == lengths or (slot is not None and other.user_attrs.get(SLOT) == slot)
        if same and not given_up:
            return other.number, False
        undecided |= gene is None and not given_up
    return None, undecided
