"""The limits of the service; light, so that `quala serve --help` is fast."""

from __future__ import annotations

from dataclasses import dataclass

from quala.ranges import check_ranges, ranged

KIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the service allows and how it batches.

    `budget_ms` is the budget of requests that name none; None means full length. `queue` counts
    queries that wait, not requests. Raises QualaError for impossible values, named as the
    command names them.
    """

    budget_ms: float | None = ranged(None, above=0)
    max_batch: int = ranged(8, at_least=1)
    batch_wait_ms: float = ranged(2.0, at_least=0)
    queue: int = ranged(64, at_least=1)
    timeout_s: float = ranged(30.0, above=0)
    max_request_kib: int = ranged(512, at_least=1)

    def __post_init__(self) -> None:
        check_ranges(self, lambda name: f"--{name.replace('_', '-')}")

    @property
    def max_request_bytes(self) -> int:
        """The largest request body."""
        return self.max_request_kib * KIB
