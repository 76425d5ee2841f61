"""Which of the waiting queries are answered together."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from quala.runtime.query import Query, Reply

SHORT = 512
"""Characters below which a text costs about as much as any shorter one."""
LIKE = 4.0
"""Texts whose lengths differ by no more than this factor may go together."""


@dataclass(eq=False, slots=True)
class Job:
    """A query, when it came (loop time), and where its reply goes."""

    query: Query
    future: asyncio.Future[Reply]
    came: float
    work: int = field(init=False)

    def __post_init__(self) -> None:
        self.work = max(len(self.query.question) + len(self.query.context), SHORT)


class Waiting:
    """The queries that wait, the oldest first."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def oldest(self) -> Job:
        """The query that has waited longest."""
        return self._jobs[0]

    def add(self, jobs: Iterable[Job]) -> None:
        """Append jobs."""
        self._jobs.extend(jobs)

    def discard(self, jobs: Iterable[Job]) -> None:
        """Take jobs out, those that still wait."""
        gone = set(map(id, jobs))
        self._jobs = [job for job in self._jobs if id(job) not in gone]

    def take(self, most: int) -> list[Job]:
        """Take the oldest and up to `most` - 1 others that are most like it.

        Those of the same budget come first, then those of the nearest length; texts of a very
        different length wait for the next batch, so that a short one is not held up by a long
        one. Since the oldest always goes, none waits for ever.
        """
        first = self.oldest
        others = [job for job in self._jobs[1:] if _apart(first, job) <= math.log(LIKE)]
        others.sort(key=lambda job: (job.query.budget != first.query.budget, _apart(first, job)))
        taken = [first, *others[: most - 1]]
        self.discard(taken)
        return taken


def _apart(one: Job, other: Job) -> float:
    return abs(math.log(one.work / other.work))
