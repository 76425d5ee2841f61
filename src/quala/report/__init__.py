"""Reports: charts, figures, pages and tables."""

from quala.report.write import build_report, read_report

__all__ = ["build_report", "read_report"]
