"""A report with made-up figures, as a fixture for all tests."""

from __future__ import annotations

import pytest

from quala.results import Latency, Point, Report, Row, with_speedups

MIB = 2**20


def _row(model: str, precision: str, tokens: str, **figures: object) -> Row:
    values = {"size_bytes": 30 * MIB, "macs_padded": 5_000_000_000, "macs_mean": 2e9}
    return Row(model=model, precision=precision, tokens=tokens, **(values | figures))


@pytest.fixture
def made_up_report() -> Report:
    """Baseline, two full-length rows, a front of four, the second chosen and measured in float."""
    rows = [
        _row(
            "teacher", "fp32", "full", role="baseline", size_bytes=86 * MIB, score=91.0,
            exact_match=88.0, latency_ms=Latency(60.0, 66.0, 80.0),
        ),
        _row(
            "supernet", "fp32", "full", role="full", size_bytes=86 * MIB, score=92.5,
            exact_match=90.0, latency_ms=Latency(50.0, 55.0, 70.0),
        ),
        _row(
            "supernet", "fp32", "70, 60, 30", role="supernet", lengths=(70, 60, 30), score=90.9,
            size_bytes=86 * MIB, exact_match=88.1, macs_mean=1.0e9, macs_padded=int(2.5e9),
            latency_ms=Latency(22.0, 25.0, 30.0),
        ),
        _row(
            "integer", "int8", "full", role="full", score=92.0, exact_match=89.5,
            latency_ms=Latency(25.0, 28.0, 33.0),
        ),
    ]  # fmt: skip
    front = [((60, 40, 20), 0.8, 85.0), ((70, 60, 30), 1.0, 90.5), ((80, 80, 40), 1.3, 91.5),
             ((96, 90, 70), 1.7, 91.8)]  # fmt: skip
    for number, (lengths, gmacs, score) in enumerate(front):
        rows.append(
            _row(
                "integer", "int8", ", ".join(map(str, lengths)), lengths=lengths,
                role="chosen" if number == 1 else "front", score=score, exact_match=score - 3,
                macs_mean=gmacs * 1e9, macs_padded=int(gmacs * 2.5e9),
                latency_ms=Latency(12.0 * gmacs, 14 * gmacs, 17 * gmacs),
            )
        )  # fmt: skip
    candidates = tuple(
        Point((90, 60 - number, 30), 70 + number / 2, (0.7 + number / 40) * 1e9, 9 + number / 3)
        for number in range(40)
    )
    provenance = {"run": "0123abcd", "command": "quala run <made up> & more", "seed": "0"}
    return Report(tuple(with_speedups(rows)), candidates, provenance)
