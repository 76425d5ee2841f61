"""Exported graphs have the nodes and tensors that they had."""

from __future__ import annotations

import difflib
from functools import cache
from typing import Any

import pytest
from golden.graphs import NAMES, described, read
from toys import build, build_hf, make_batch

__all__ = ["build", "build_hf", "make_batch"]

golden = cache(read)


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_is_what_it_was(name: str, build: Any, make_batch: Any) -> None:
    found, expected = described(name, build, make_batch), golden()[name]
    changed = difflib.unified_diff(expected, found, "was", "is", n=1, lineterm="")
    assert found == expected, "\n".join([name, *list(changed)[:60]])
