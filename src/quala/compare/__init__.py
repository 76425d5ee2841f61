"""Tracked runs side by side: what their stages cost and scored, grouped by system and setting.

`build_comparison` reads runs from the tracking store and writes one page with tables and charts.
Runs that differ in their seed only are one row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quala._lazy import lazy

if TYPE_CHECKING:
    from quala.compare.write import build_comparison

__all__ = ["build_comparison"]

__getattr__ = lazy(
    __name__,
    {
        "quala.compare.write": ["build_comparison"],
    },
)
