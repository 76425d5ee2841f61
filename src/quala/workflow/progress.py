"""Progress of long work: a bar with the time left, or a few log lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

SECONDS_BETWEEN_LINES = 30.0


class Progress(Protocol):
    """Something that is moved on while work is done."""

    def advance(self, amount: float = 1.0) -> None:
        """Move on by `amount` of the total."""

    def note(self, text: str) -> None:
        """Show a few words behind the description, such as the current loss."""


class _Bar:
    def __init__(self, display: object, task: object, description: str) -> None:
        self._display, self._task, self._description = display, task, description

    def advance(self, amount: float = 1.0) -> None:
        self._display.advance(self._task, amount)  # type: ignore[attr-defined]

    def note(self, text: str) -> None:
        described = f"{self._description} [dim]{text}[/dim]"
        self._display.update(self._task, description=described)  # type: ignore[attr-defined]


class _Lines:
    def __init__(self, description: str, total: float, logger: logging.Logger) -> None:
        self._description, self._total, self._logger = description, total, logger
        self._done, self._note = 0.0, ""
        self._start = self._last = time.monotonic()

    def advance(self, amount: float = 1.0) -> None:
        self._done += amount
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES and self._done > 0:
            self._last = now
            left = (now - self._start) * (self._total - self._done) / self._done
            self._logger.info(
                "%s: %.0f %%, %.0f s left %s",
                self._description,
                100 * self._done / self._total,
                max(left, 0.0),
                self._note,
            )

    def note(self, text: str) -> None:
        self._note = text


@contextmanager
def bar(description: str, total: float, logger: logging.Logger) -> Iterator[Progress]:
    """Show a bar on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Display

    display = Display(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with display:
        yield _Bar(display, display.add_task(description, total=total), description)


@contextmanager
def lines(description: str, total: float, logger: logging.Logger) -> Iterator[Progress]:
    """Write a log line at most every half minute."""
    yield _Lines(description, total, logger)
