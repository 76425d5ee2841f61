"""Report: the table, the figure and the page of the measured rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from quala.data.spec import DEMO
from quala.lengths import layers_name
from quala.report.page import build_report
from quala.results import Point
from quala.search.result import read_result
from quala.stages.measure import read_data, read_rows
from quala.stages.search import GIGA

if TYPE_CHECKING:
    from quala.search.result import SearchCandidate
    from quala.stage import StageContext
    from quala.stages.result_options import ReportConfig


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
    data = read_data(inputs["measure"])
    return build_report(
        context.output,
        read_rows(inputs["measure"]),
        candidates=candidates,
        provenance=context.provenance,
        title=titled(config.title, data),
        data=data,
    )


NAMED = re.compile(r"(?<= on )(SQuAD 1\.1|GLUE|MNLI)\b")
"""The data that titles of the presets name; they are run on other data too."""
THE_DEMO = re.compile(r", the demo$")


def titled(text: str, data: Mapping[str, Any]) -> str:
    """Return a title that names the data that were measured, where it names data of a preset."""
    name = str(data.get("title") or "")
    if not name:  # of a measurement by an older version
        return text
    named = NAMED.sub(lambda _: name, text)
    return named if name == DEMO else THE_DEMO.sub(lambda _: f" on {name}", named)


def _point(item: SearchCandidate, unit: str) -> Point:
    gmacs = item.cost if item.gmacs is None else item.gmacs
    milliseconds = item.cost if unit == "ms" else None
    layers = layers_name(item.lengths.layers) if item.lengths.layers else ""
    return Point(item.lengths.lengths, item.score, gmacs * GIGA, milliseconds, layers)
