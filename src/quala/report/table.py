"""The report's table, in the shape of the published one: for terminal, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from quala.results import GIGA, Latency, Row

if TYPE_CHECKING:
    from rich.table import Table

MIB = 2**20
ABSENT = "-"
_CSV_HEADINGS = (
    "model",
    "precision",
    "size_bytes",
    "tokens_per_layer",
    "exact_match",
    "score",
    "latency_ms_median",
    "latency_ms_p90",
    "latency_ms_p99",
    "macs_padded",
    "macs_mean",
    "speedup",
    "role",
)
METRIC_NAMES = {
    "f1": "F1",
    "accuracy": "Accuracy",
    "matthews": "Matthews",
    "pearson": "Pearson",
    "spearman": "Spearman",
}


def metric_name(metric: str) -> str:
    """Return how a metric is written in a heading."""
    return METRIC_NAMES[metric] if metric in METRIC_NAMES else metric


def headings(rows: Sequence[Row]) -> list[str]:
    """Return the headings of `cells`; exact match has a column where it was measured."""
    exact = ["EM"] if _has_exact_match(rows) else []
    return [
        "Model",
        "Precision",
        "Size MiB",
        "Tokens per layer",
        *exact,
        metric_name(rows[0].metric),
        "Latency ms",
        "GMACs padded",
        "GMACs mean",
        "Speed-up",
    ]


def cells(row: Row, *, exact: bool, tails: bool) -> list[str]:
    """Return a row as text; `tails` adds the 90th and 99th percentile to the median latency."""
    return [
        row.model,
        row.precision,
        f"{row.size_bytes / MIB:.2f}",
        row.tokens,
        *([_number(row.exact_match)] if exact else []),
        _number(row.score),
        _latency(row.latency_ms, tails=tails),
        f"{row.macs_padded / GIGA:.3f}",
        f"{row.macs_mean / GIGA:.3f}",
        ABSENT if row.speedup is None else f"{row.speedup:.2f}x",
    ]


def table_cells(rows: Sequence[Row], *, tails: bool) -> list[list[str]]:
    """Return all rows as text, matching `headings`."""
    exact = _has_exact_match(rows)
    return [cells(row, exact=exact, tails=tails) for row in rows]


def terminal_table(rows: Sequence[Row], *, title: str | None = None) -> Table:
    """Return a table for the terminal; the chosen point is bold."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for number, heading in enumerate(headings(rows)):
        words = number < 2 or heading == "Tokens per layer"
        table.add_column(heading, justify="left" if words else "right", overflow="fold")
    for row, texts in zip(rows, table_cells(rows, tails=False)):
        table.add_row(*texts, style="bold green" if row.role == "chosen" else None)
    return table


def markdown_table(rows: Sequence[Row]) -> str:
    """Return a Markdown table; latencies are median / 90th / 99th percentile."""
    names = ["Latency ms (p50 / p90 / p99)" if n == "Latency ms" else n for n in headings(rows)]
    lines = [names, ["---"] * len(names)]
    for row, texts in zip(rows, table_cells(rows, tails=True)):
        lines.append([f"**{text}**" if row.role == "chosen" else text for text in texts])
    return "".join(f"| {' | '.join(_escaped(line))} |\n" for line in lines)


def csv_text(rows: Sequence[Row]) -> str:
    """Return CSV with a header, unrounded; absent figures are empty."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(heading.replace("score", rows[0].metric) for heading in _CSV_HEADINGS)
    writer.writerows(_csv_cells(row) for row in rows)
    return target.getvalue()


def _csv_cells(row: Row) -> tuple[object, ...]:
    latency = row.latency_ms
    measured = (row.model, row.precision, row.size_bytes, row.tokens, row.exact_match, row.score)
    times = (latency.median, latency.p90, latency.p99) if latency else (None,) * 3
    return (*measured, *times, row.macs_padded, row.macs_mean, row.speedup, row.role)


def _has_exact_match(rows: Sequence[Row]) -> bool:
    return any(row.exact_match is not None for row in rows)


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2f}"


def _latency(latency: Latency | None, *, tails: bool) -> str:
    if latency is None:
        return ABSENT
    if tails:
        return f"{latency.median:.2f} / {latency.p90:.2f} / {latency.p99:.2f}"
    return f"{latency.median:.2f}"


def _escaped(texts: Sequence[str]) -> list[str]:
    return [text.replace("|", "\\|") for text in texts]
