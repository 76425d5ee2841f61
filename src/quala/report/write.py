"""Write a report: JSON, Markdown, CSV, PNG and the page, in one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from quala.errors import QualaError
from quala.report.figure import draw_front
from quala.report.page import page_html
from quala.report.table import csv_text, markdown_table
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
    texts = {
        REPORT: json.dumps(report.to_json(), indent=1),
        "report.md": _markdown(report),
        "report.csv": csv_text(report.rows),
        "report.html": page_html(report),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    draw_front(report, folder / "front.png")
    return report.metrics()


def read_report(folder: Path) -> Report:
    """Read the report that `build_report` wrote. Raises QualaError when there is none."""
    file = folder / REPORT
    try:
        return Report.from_json(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise QualaError(f"`{file}` cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise QualaError(f"`{file}` is not a report of quala.") from error


def _markdown(report: Report) -> str:
    figures = report.metrics()
    lines = [f"- {name}: {text}" for name, text in report.provenance.items()]
    return "\n".join(
        [
            f"# {report.title}\n",
            markdown_table(report.rows),
            f"Hypervolume {figures['hypervolume']:.4f} over {len(report.front)} front points.\n",
            "![Front](front.png)\n",
            *lines,
            "",
        ]
    )
