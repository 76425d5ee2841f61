"""Write a report: JSON, Markdown, CSV, PNG and the page, in one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from quala.errors import QualaError
from quala.report.charts import report_charts
from quala.report.figure import draw_charts
from quala.report.page import render
from quala.report.table import csv_text, markdown_table, report_texts
from quala.results import Point, Report, Row, with_speedups

Provenance = Mapping[str, str]
REPORT = "report.json"


def build_report(
    folder: Path,
    rows: Sequence[Row],
    *,
    candidates: Sequence[Point] = (),
    provenance: Provenance | None = None,
    title: str = "Accuracy against cost",
) -> dict[str, float]:
    """Write report.json, report.md, report.csv, front.png and report.html; return the metrics.

    Speed-ups are computed here. `provenance` maps a label (run, command, seed, hardware, date,
    data) to its text. Raises QualaError without rows.
    """
    report = Report(tuple(with_speedups(rows)), tuple(candidates), dict(provenance or {}), title)
    charts, metrics = report_charts(report), report.metrics()
    shown = {"report": report, "charts": charts, "hypervolume": metrics["hypervolume"]}
    texts = {
        REPORT: json.dumps(report.to_json(), indent=1),
        "report.md": render("report.md.j2", table=markdown_table(report.rows), **shown),
        "report.csv": csv_text(report.rows),
        "report.html": render(
            "report.html.j2", table=report_texts(report.rows, tails=True), **shown
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    draw_charts(charts, folder / "front.png")
    return metrics


def read_report(folder: Path) -> Report:
    """Read the report that `build_report` wrote. Raises QualaError when there is none."""
    file = folder / REPORT
    try:
        return Report.from_json(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise QualaError(f"`{file}` cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise QualaError(f"`{file}` is not a report of quala.") from error
