"""Comparison of tracked runs, grouped by system and setting."""

from quala.compare.group import Comparison
from quala.compare.store import Reports
from quala.compare.trials import Collector
from quala.compare.write import build_comparison

__all__ = ["Collector", "Comparison", "Reports", "build_comparison"]
