"""What a stage is given beside its config and inputs: folders, tracking and progress."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from quala.workflow.progress import Progress, bar, lines

__all__ = ["Candidate", "Progress", "Recorder", "StageContext"]


@dataclass(frozen=True)
class Candidate:
    """One configuration that a search scored; `name` is unique within its search."""

    name: str
    metrics: Mapping[str, float]
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class Recorder(Protocol):
    """Where figures go: the tracking store, or nowhere when a stage is used alone."""

    def metrics(self, run_id: str, values: Mapping[str, float], step: int | None) -> None:
        """Record metrics of a run."""

    def candidates(self, run_id: str, candidates: Sequence[Candidate]) -> None:
        """Record one finished child run per candidate that the run does not have yet."""


@dataclass(frozen=True)
class StageContext:
    """The surroundings of one run of a stage.

    `output` is an empty folder: what the stage leaves there is its artifact. `scratch` survives a
    kill and is handed to the run that resumes (checkpoints, studies); it goes after success.
    """

    name: str
    output: Path
    scratch: Path
    run_id: str = ""
    tracking_uri: str = ""
    experiment: str = ""
    bars: bool = False
    recorder: Recorder | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Command, run, seed, data, commit, hardware and date, as a report shows them."""

    @classmethod
    def alone(cls, name: str, folder: Path) -> StageContext:
        """Return a context without tracking, to use a stage by itself under `folder`."""
        context = cls(name=name, output=folder / "output", scratch=folder / "scratch")
        context.output.mkdir(parents=True, exist_ok=True)
        context.scratch.mkdir(parents=True, exist_ok=True)
        return context

    @property
    def logger(self) -> logging.Logger:
        """The stage's logger, `quala.stages.<name>`."""
        return logging.getLogger(f"quala.stages.{self.name}")

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Record metrics on the stage's run in one request."""
        if self.recorder is not None:
            self.recorder.metrics(self.run_id, values, step)

    def log_candidates(self, candidates: Sequence[Candidate]) -> None:
        """Record search candidates as child runs; names recorded before are left alone."""
        if self.recorder is not None:
            self.recorder.candidates(self.run_id, candidates)

    @contextmanager
    def progress(self, description: str, total: float) -> Iterator[Progress]:
        """Show progress with the time left: a bar on a terminal, else a log line now and then."""
        shown = bar if self.bars else lines
        with shown(description, total, self.logger) as progress:
            yield progress
