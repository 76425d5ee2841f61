"""Stages: their description, their options, and what a running stage has around it."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from quala.plugins import module_hash
from quala.ranges import check_ranges, text

if TYPE_CHECKING:
    import rich.progress

SECONDS_BETWEEN_LINES = 30.0


class Progress(Protocol):
    """Something that is moved on while work is done."""

    def advance(self, amount: float = 1.0) -> None:
        """Move on by `amount` of the total."""

    def note(self, text: str) -> None:
        """Show a few words behind the description, such as the current loss."""


class Pace:
    """Estimate the seconds left from the later half of the moves seen; `clock` is in seconds.

    The first move counts nothing: it may be the steps that a resumed training finds done, or the
    step that prepares everything. Moves at one moment, such as a search's, are one. Until enough
    moves were seen there is no estimate.
    """

    ENOUGH, MOST = 5, 1000
    """Moves, the first included, before the first estimate, and those that are kept. Guesses."""
    MOMENT = 0.05
    """Seconds."""

    def __init__(self, total: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done, self._clock = total, 0.0, clock
        self._moves: list[tuple[float, float]] = []

    def move(self, amount: float) -> None:
        """Note that `amount` more of the total is done."""
        if not amount:
            return
        self.done += amount
        now = self._clock()
        if self._moves and now - self._moves[-1][0] < self.MOMENT:
            now = self._moves.pop()[0]
        self._moves.append((now, self.done))
        if len(self._moves) > self.MOST:
            self._moves = self._moves[::2]

    def left(self) -> float | None:
        """Return the estimate, None until there is one."""
        if len(self._moves) < self.ENOUGH:
            return None
        since, before = self._moves[len(self._moves) // 2 - 1]
        seconds = (self._moves[-1][0] - since) / (self.done - before)
        return max(0.0, seconds * (self.total - self.done))

    def text(self) -> str:
        """Return the estimate in words, such as `, 3 min left`, empty without one."""
        left = self.left()
        if left is None:
            return ""
        minutes, hours = round(left / 60), left / 3600
        if left < 90:
            return f", {left:.0f} s left"
        return f", {minutes} min left" if minutes < 90 else f", {hours:.1f} h left"


class _Bar:
    def __init__(self, display: rich.progress.Progress, description: str, total: float) -> None:
        from rich.markup import escape

        self._display, self._description, self._pace = display, escape(description), Pace(total)
        self._escape = escape
        self._task = display.add_task(self._description, total=total, left="")

    def advance(self, amount: float = 1.0) -> None:
        self._pace.move(amount)
        self._display.update(self._task, advance=amount, left=self._pace.text())

    def note(self, text: str) -> None:
        self._display.update(
            self._task, description=f"{self._description} [dim]{self._escape(text)}[/dim]"
        )


class _Lines:
    def __init__(self, description: str, total: float, logger: logging.Logger) -> None:
        self._description, self._logger = description, logger
        self._pace, self._note = Pace(total), ""
        self._last = time.monotonic()

    def advance(self, amount: float = 1.0) -> None:
        self._pace.move(amount)
        now, pace = time.monotonic(), self._pace
        if now - self._last >= SECONDS_BETWEEN_LINES and pace.done > 0:
            self._last = now
            share = 100 * pace.done / pace.total
            self._logger.info(
                "%s: %.0f %%%s %s", self._description, share, pace.text(), self._note
            )

    def note(self, text: str) -> None:
        self._note = text


@contextmanager
def shown_progress(
    description: str, total: float, logger: logging.Logger | None
) -> Iterator[Progress]:
    """Show progress with the time left: a bar on standard error, or lines of `logger`."""
    if logger is not None:
        yield _Lines(description, total, logger)
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TextColumn("{task.percentage:>3.0f} %"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.fields[left]}"),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as display:
        yield _Bar(display, description, total)


StageFunction = Callable[[Any, "StageContext", Mapping[str, Any]], dict[str, float]]


def unfingerprinted(default: Any) -> Any:
    """Return a field of a config that is no part of the stage's fingerprint."""
    return field(default=default, metadata={"identity": False})


@dataclass
class StageConfig:
    """The options that every stage has; none of them is part of the fingerprint."""

    enabled: bool = unfingerprinted(True)
    """If false, the stage is skipped and its pass-through input is its output."""
    given: str | None = text("place", None, identity=False)
    """An output from outside: a folder, `runs:/ID`, a run id or `models:/name@alias`."""
    force: bool = unfingerprinted(False)
    """Run the stage although its output exists."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Raise QualaError for options that do not go with these inputs, or with no such inputs.

        It is called with what a plan knows: the data, and names and places of models.
        """

    def remarks(self) -> list[str]:
        """Return a sentence, first the option in backticks, for each value that may be a slip."""
        return []


@dataclass(frozen=True)
class Stage:
    """Describe a stage of a workflow.

    `version` is raised by hand when the stage's code changes what it makes: it is part of the
    fingerprint, as is the file of a stage that is not quala's own. `config` is a dataclass whose
    fields are part of it too, except for those made by `unfingerprinted`. An option that joins an
    existing stage is a field with the metadata `{"identity": "if set"}`: at its default it does
    not count, so that no finished stage is computed again; one with `{"plugins": REGISTRY}` holds
    names of code. Where only some values of a config, or of a part of it, make something else than
    before, its `revisions` have a word for each, which is part of the fingerprint. `run` is
    `"module:function"`, imported only when the stage runs. `headline` names the final metrics that
    the workflow's own run has under their plain name, for the charts.
    `about` names inputs that the output has figures of. Who gives an output of another model or
    data is warned, or refused where the figures are `exact`. `fits` and `check` are
    `"module:function"`s that raise QualaError for a `given` output that does not go with the run:
    `fits`, which must be cheap, takes its folder and the data when the run is planned, `check` its
    folder and the inputs of the stage before anything runs.
    """

    name: str
    version: int
    config: type[StageConfig]
    run: str
    summary: str
    headline: tuple[str, ...] = ()
    check: str | None = None
    about: tuple[str, ...] = ()
    exact: bool = False
    fits: str = ""

    @property
    def code(self) -> dict[str, str]:
        """The SHA-256 of the file of `run`, by its name; empty for quala's own."""
        code = module_hash(self.run.partition(":")[0])
        return {self.run: code} if code else {}

    def function(self) -> StageFunction:
        """Import and return the function that does the work."""
        function: StageFunction = imported(self.run)
        return function

    def check_given(self, folder: Path, inputs: Mapping[str, Any]) -> None:
        """Raise QualaError for an output from outside that later stages cannot take."""
        if self.check is not None:
            imported(self.check)(folder, inputs)


def imported(place: str) -> Any:
    """Import and return the object at `module:attribute`."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


class RecipeStage(Protocol):
    """A stage as a recipe uses it."""

    @property
    def stage(self) -> str:
        """Name of the stage."""

    def check(self, workflow: str, config: Any) -> None:
        """Raise QualaError for options that the recipe does not have."""


@dataclass(frozen=True)
class Candidate:
    """One configuration that a search scored; `name` is unique within its search."""

    name: str
    metrics: Mapping[str, float]
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class Recorder(Protocol):
    """Where figures go: the tracking store, or nowhere when a stage is used alone."""

    def record(self, run_id: str, metrics: Mapping[str, float], *, step: int) -> None:
        """Record metrics of a run."""

    def candidates(self, run_id: str, candidates: Sequence[Candidate]) -> None:
        """Record all candidates of a run as a table, and as child runs where these are wanted."""


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
            self.recorder.record(self.run_id, values, step=step or 0)

    def log_candidates(self, candidates: Sequence[Candidate]) -> None:
        """Record all candidates of a search, once it has ended."""
        if self.recorder is not None:
            self.recorder.candidates(self.run_id, candidates)

    def progress(self, description: str, total: float) -> AbstractContextManager[Progress]:
        """Show progress with the time left: a bar on a terminal, else a log line now and then."""
        return shown_progress(description, total, None if self.bars else self.logger)
