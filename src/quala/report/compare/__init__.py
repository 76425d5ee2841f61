"""Comparisons: tracked runs of different systems on one page."""

from quala.report.compare.build import build_comparison
from quala.report.compare.collect import Collector
from quala.report.compare.comparison import Comparison
from quala.report.compare.trial import Trial

__all__ = ["Collector", "Comparison", "Trial", "build_comparison"]
