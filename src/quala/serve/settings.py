"""The limits of the service; light, so that `quala serve --help` is fast."""

from __future__ import annotations

import math
from dataclasses import dataclass

from quala.errors import QualaError

KIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the service allows and how it batches.

    `budget_ms` is the budget of requests that name none; None means full length. `queue` counts
    queries that wait, not requests. Raises QualaError for impossible values, named as the
    command names them.
    """

    budget_ms: float | None = None
    max_batch: int = 8
    batch_wait_ms: float = 2.0
    queue: int = 64
    timeout_s: float = 30.0
    max_request_kib: int = 512

    def __post_init__(self) -> None:
        for name in ("max_batch", "queue", "max_request_kib"):
            require(name, getattr(self, name), at_least=1)
        require("batch_wait_ms", self.batch_wait_ms, at_least=0)
        require("timeout_s", self.timeout_s, above=0)
        if self.budget_ms is not None:
            require("budget_ms", self.budget_ms, above=0)

    @property
    def max_request_bytes(self) -> int:
        """The largest request body."""
        return self.max_request_kib * KIB


def require(
    name: str, value: float, *, at_least: float | None = None, above: float | None = None
) -> None:
    """Raise QualaError unless `value` is a finite number within its limit."""
    flag = f"--{name.replace('_', '-')}"
    if above is not None and not (math.isfinite(value) and value > above):
        raise QualaError(f"`{flag}` must be above {above:g}, got {value}.")
    if at_least is not None and not (math.isfinite(value) and value >= at_least):
        raise QualaError(f"`{flag}` must be at least {at_least:g}, got {value}.")
