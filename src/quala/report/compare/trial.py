"""One measured row of one tracked run, with all that a comparison wants to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from quala.report.compare.lineage import Work
from quala.report.compare.settings import Setting
from quala.report.rows import Row

Kind = Literal["teacher", "full", "chosen"]
TEACHER = "fine-tuned"
"""What the comparison calls the system of the teachers' rows."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where latencies were measured: times of different places are not compared."""

    runtime: str
    threads: int
    processor: str

    def __str__(self) -> str:
        return f"{self.runtime}, {self.threads} threads, {self.processor}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What the stages cost that led to a model, and which of them nobody knows.

    `training` are stages with optimizer steps, `other` are calibrations and searches, `missing`
    the names of outputs that were given from outside.
    """

    training: tuple[Work, ...]
    other: tuple[Work, ...]
    missing: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return sum(work.steps for work in self.training)

    @property
    def passes(self) -> int:
        """Forward and backward passes of a batch."""
        return sum(work.passes for work in self.training)

    @property
    def inputs(self) -> int:
        """Inputs that were passed forward and backward."""
        return sum(work.inputs for work in self.training)

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        return sum(work.seconds for work in self.training)

    @property
    def other_seconds(self) -> float:
        """Seconds of calibrations and searches."""
        return sum(work.seconds for work in self.other)

    @property
    def partial(self) -> bool:
        """Whether the training took more than what is known of it."""
        return bool(self.missing) or any(work.partial for work in self.training)

    @property
    def other_partial(self) -> bool:
        """Whether calibrations and searches took more than what is known of them."""
        return any(work.partial for work in self.other)

    @property
    def machines(self) -> tuple[str, ...]:
        """Where the training ran."""
        return tuple(dict.fromkeys(work.machine for work in self.training))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A row of a run's report and where it comes from.

    `identity` is equal for two measurements of one model at lengths found by one search. `data`
    is the fingerprint of the data that `spec` names. `named` are the options of `setting` that
    somebody gave on the command line.
    """

    run: str
    system: str
    kind: Kind
    row: Row
    score: float
    identity: str
    data: str
    spec: Mapping[str, Any]
    setting: Setting
    named: frozenset[str]
    seeds: tuple[int, ...]
    place: Place
    teacher_ms: float | None
    """The teacher's median latency, timed side by side with the row."""
    costs: Costs
    teacher: Costs
    front: tuple[Row, ...]
    """Other lengths of the same model, with the row at full length."""
    commit: str
    started: datetime

    def share(self, row: Row) -> float | None:
        """Return the latency of one of the run's rows as a share of the teacher's."""
        if row.median_ms is None or self.teacher_ms is None:
            return None
        return row.median_ms / self.teacher_ms
