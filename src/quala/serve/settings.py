"""The limits of the service; light, so that `quala serve --help` is fast."""

from __future__ import annotations

from dataclasses import dataclass

from quala.ranges import check_ranges, ranged

KIB = 1024
DAY_S = 86_400
MANY = 1_000_000


def fits(size: int, *, used: int, limit: int) -> bool:
    """Say whether something may use part of a shared limit, of which `used` is taken.

    What needs more than one place may take half of those that are left, or all while none is
    taken: large requests never take the last places of small ones.
    """
    return size <= limit if not used else 2 * size - 1 <= limit - used


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the service allows and how it batches.

    `budget_ms` is the budget of requests that name none; None means full length. `queue` counts
    windows of the model that wait, `max_windows` those of one request. `max_connections` None is
    as many as the descriptors of the process allow. Without `allowed_hosts` a request may name
    any host. Raises QualaError for impossible values, named as the command names them.
    """

    budget_ms: float | None = ranged(None, above=0)
    max_batch: int = ranged(8, at_least=1, at_most=1024)
    batch_wait_ms: float = ranged(2.0, at_least=0, at_most=DAY_S * 1000)
    queue: int = ranged(64, at_least=1, at_most=MANY)
    max_windows: int = ranged(64, at_least=1, at_most=MANY)
    timeout_s: float = ranged(30.0, above=0, at_most=DAY_S)
    max_request_kib: int = ranged(512, at_least=1, at_most=KIB * KIB)
    max_connections: int | None = ranged(None, at_least=1, at_most=MANY)
    allowed_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_ranges(self, lambda name: f"--{name.replace('_', '-')}")

    @property
    def max_request_bytes(self) -> int:
        """The largest request body."""
        return self.max_request_kib * KIB
