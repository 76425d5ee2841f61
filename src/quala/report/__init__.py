"""Reports: the table, the figure and the page that say what each budget costs."""

from quala.report.build import Provenance, build_report, read_report
from quala.report.rows import Latency, Point, Report, Role, Row, with_speedups
from quala.report.table import csv_text, markdown_table, terminal_table

__all__ = [
    "Latency",
    "Point",
    "Provenance",
    "Report",
    "Role",
    "Row",
    "build_report",
    "csv_text",
    "markdown_table",
    "read_report",
    "terminal_table",
    "with_speedups",
]
