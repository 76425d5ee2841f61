"""SECURITY.md promises nothing without a test."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
UNTESTED = "## What is trusted"
"""Says what has to be trusted, and promises nothing."""
NAMED = re.compile(r"\[(tests/[\w/]+\.py)::(test_\w+)\]")


def promises() -> list[str]:
    """Return the items of the lists, without those of what is trusted."""
    sections = [part for part in re.split(r"(?m)^(?=## )", TEXT) if not part.startswith(UNTESTED)]
    return [item for part in sections for item in re.findall(r"(?ms)^- .*?(?=^- |^\n|\Z)", part)]


def test_every_promise_has_a_test_that_exists() -> None:
    assert len(promises()) > 10
    for promise in promises():
        tests = NAMED.findall(promise)
        assert tests, f"no test: {promise}"
        for file, name in tests:
            text = (ROOT / file).read_text(encoding="utf-8")
            assert re.search(rf"(?m)^(?:async )?def {name}\(", text), f"{file}::{name}"


def test_every_test_that_is_named_belongs_to_a_promise() -> None:
    assert len(NAMED.findall(TEXT)) == sum(len(NAMED.findall(one)) for one in promises())
    assert TEXT.count("[tests/") == len(NAMED.findall(TEXT))
