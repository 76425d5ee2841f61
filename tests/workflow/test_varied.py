"""What is shown of a sweep's overrides."""

from __future__ import annotations

from quala.workflow.sweep import varied


def test_a_sweep_shows_what_its_jobs_differ_in() -> None:
    same = ["experiment=demo", "data.title='a b'"]
    assert varied([[*same, "seed=0"], [*same, "seed=1"]]) == ["seed=0", "seed=1"]
    assert varied([[*same]]) == ["experiment=demo data.title='a b'"]
    assert varied([]) == []
