"""The report of one run: table, charts, figure and page.

`build_report` writes them for a `Report`, whose `Row`s are measured models; `read_report` reads a
`Report` back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quala._lazy import lazy

if TYPE_CHECKING:
    from quala.report.page import build_report
    from quala.results import Report, Row, read_report

__all__ = ["Report", "Row", "build_report", "read_report"]

__getattr__ = lazy(
    __name__,
    {
        "quala.report.page": ["build_report"],
        "quala.results": ["Report", "Row", "read_report"],
    },
)
