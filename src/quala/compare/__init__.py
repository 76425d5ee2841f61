"""Tracked runs side by side: what their stages cost and scored, grouped by system and setting.

`Collector` reads runs from the tracking store, `Comparison` groups them (runs that differ in the
seed only are one row), and `build_comparison` writes one page with tables and charts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quala._lazy import lazy

if TYPE_CHECKING:
    from quala.compare.group import Comparison
    from quala.compare.store import Reports
    from quala.compare.trials import Collector
    from quala.compare.write import build_comparison

__all__ = ["Collector", "Comparison", "Reports", "build_comparison"]

__getattr__ = lazy(
    __name__,
    {
        "quala.compare.group": ["Comparison"],
        "quala.compare.store": ["Reports"],
        "quala.compare.trials": ["Collector"],
        "quala.compare.write": ["build_comparison"],
    },
)
