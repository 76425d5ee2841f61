"""Report: the table, the figure and the page of the measured rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from quala.report.page import build_report
from quala.results import Point
from quala.search.result import read_result
from quala.stages.measure import read_rows
from quala.stages.search import GIGA

if TYPE_CHECKING:
    from quala.search.result import SearchCandidate
    from quala.stage import StageContext
    from quala.stages.options import ReportConfig


def run(
    config: ReportConfig, context: StageContext, inputs: Mapping[str, Any]
) -> dict[str, float]:
    """Write report.json, report.md, report.csv, front.png and report.html.

    Without a `search` the report has no candidates.
    """
    candidates = []
    if "search" in inputs:
        found = read_result(inputs["search"])
        candidates = [_point(item, found.unit) for item in found.candidates]
    return build_report(
        context.output,
        read_rows(inputs["measure"]),
        candidates=candidates,
        provenance=context.provenance,
        title=config.title,
    )


def _point(item: SearchCandidate, unit: str) -> Point:
    gmacs = item.cost if item.gmacs is None else item.gmacs
    milliseconds = item.cost if unit == "ms" else None
    return Point(item.lengths.lengths, item.score, gmacs * GIGA, milliseconds)
