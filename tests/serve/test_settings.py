"""Limits: impossible ones are refused by the name of their flag."""

from __future__ import annotations

import math

import pytest

from quala.errors import QualaError
from quala.serve.settings import Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch", 0),
        ("queue", 0),
        ("max_request_kib", -1),
        ("batch_wait_ms", -0.1),
        ("batch_wait_ms", math.inf),
        ("timeout_s", 0),
        ("timeout_s", math.nan),
        ("budget_ms", 0),
        ("budget_ms", math.nan),
        ("max_windows", 0),
        ("max_connections", 0),
        ("timeout_s", 1e9),
        ("queue", 10**9),
        ("max_request_kib", 10**9),
    ],
)
def test_impossible_limits(name: str, value: float) -> None:
    with pytest.raises(QualaError, match=f"^`--{name.replace('_', '-')}` must be .*got"):
        Settings(**{name: value})  # type: ignore[arg-type]


def test_request_size_is_in_kibibytes() -> None:
    assert Settings(max_request_kib=2).max_request_bytes == 2048
