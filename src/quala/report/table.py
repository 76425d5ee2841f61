"""Tables as data frames, and their forms: Markdown, CSV, terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from quala.results import GIGA, Row

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.table import Table

MIB = 2**20
ABSENT = "-"
METRIC_NAMES = {
    "f1": "F1",
    "accuracy": "Accuracy",
    "matthews": "Matthews",
    "pearson": "Pearson",
    "spearman": "Spearman",
}


def metric_name(metric: str) -> str:
    """Return how a metric is written in a heading."""
    return METRIC_NAMES.get(metric, metric)


def format_number(value: float | None, form: str = "{:.2f}") -> str:
    """Return a figure as text, a dash for None."""
    return ABSENT if value is None else form.format(value)


def to_frame(records: Iterable[Mapping[str, object]]) -> DataFrame:
    """Return the records as a frame of objects, so that counts beside None remain integers."""
    # pandas takes half a second to import
    from pandas import DataFrame

    return DataFrame(list(records), dtype=object)


def to_csv(records: Iterable[Mapping[str, object]]) -> str:
    """Return the records as CSV with a header; None is empty."""
    return to_frame(records).to_csv(index=False, lineterminator="\n")


def to_markdown(frame: DataFrame, *, bold: Collection[int] = ()) -> str:
    """Return a frame of texts as a Markdown table; `bold` are the numbers of bold rows."""
    lines = [list(frame.columns), ["---"] * len(frame.columns)]
    for number, texts in enumerate(frame.to_numpy().tolist()):
        lines.append([f"**{text}**" for text in texts] if number in bold else texts)
    escaped = ([text.replace("|", "\\|") for text in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def to_terminal(
    frame: DataFrame, *, title: str | None, left: Collection[str], bold: Collection[int] = ()
) -> Table:
    """Return a frame of texts as a table for the terminal; `left` are left-aligned columns."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title and Text(title, "table.title"), title_justify="left", header_style="bold"
    )
    for name in frame.columns:
        table.add_column(name, justify="left" if name in left else "right", overflow="fold")
    for number, texts in enumerate(frame.to_numpy().tolist()):
        table.add_row(*map(Text, texts), style="bold green" if number in bold else None)
    return table


def report_texts(rows: Sequence[Row], *, tails: bool) -> DataFrame:
    """Return the rows of a report as texts, exact match only where it was measured.

    `tails` adds the 90th and 99th percentile to the median latency.
    """
    exact = any(row.exact_match is not None for row in rows)
    return to_frame(
        {
            "Model": row.model,
            "Precision": row.precision,
            "Size MiB": f"{row.size_bytes / MIB:.2f}",
            "Tokens per layer": row.tokens,
            **({"EM": format_number(row.exact_match)} if exact else {}),
            metric_name(row.metric): format_number(row.score),
            "Latency ms": _latency(row, tails=tails),
            "GMACs padded": f"{row.macs_padded / GIGA:.3f}",
            "GMACs mean": f"{row.macs_mean / GIGA:.3f}",
            "Speed-up": format_number(row.speedup, "{:.2f}x"),
        }
        for row in rows
    )


def _latency(row: Row, *, tails: bool) -> str:
    latency = row.latency_ms
    if latency is None or not tails:
        return format_number(row.median_ms)
    return f"{latency.median:.2f} / {latency.p90:.2f} / {latency.p99:.2f}"


def terminal_table(rows: Sequence[Row], *, title: str | None = None) -> Table:
    """Return the table of a report for the terminal; the chosen point is bold."""
    return to_terminal(
        report_texts(rows, tails=False),
        title=title,
        left=("Model", "Precision", "Tokens per layer"),
        bold=_chosen(rows),
    )


def markdown_table(rows: Sequence[Row]) -> str:
    """Return the table of a report in Markdown; latencies are median / 90th / 99th percentile."""
    frame = report_texts(rows, tails=True)
    named = frame.rename(columns={"Latency ms": "Latency ms (p50 / p90 / p99)"})
    return to_markdown(named, bold=_chosen(rows))


def csv_text(rows: Sequence[Row]) -> str:
    """Return the table of a report as CSV, unrounded; absent figures are empty."""
    return to_csv(
        {
            "model": row.model,
            "precision": row.precision,
            "size_bytes": row.size_bytes,
            "tokens_per_layer": row.tokens,
            "exact_match": row.exact_match,
            row.metric: row.score,
            "latency_ms_median": row.latency_ms and row.latency_ms.median,
            "latency_ms_p90": row.latency_ms and row.latency_ms.p90,
            "latency_ms_p99": row.latency_ms and row.latency_ms.p99,
            "macs_padded": row.macs_padded,
            "macs_mean": row.macs_mean,
            "speedup": row.speedup,
            "role": row.role,
        }
        for row in rows
    )


def _chosen(rows: Sequence[Row]) -> list[int]:
    return [number for number, row in enumerate(rows) if row.role == "chosen"]
