"""Tables as data frames, and their forms: Markdown, CSV, terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from quala.lengths import layers_text
from quala.metrics.interval import Bounds, metric_name, score_text
from quala.redact import cell, markdown, visible
from quala.results import GIGA, PARTS, Report, Row, float_model, speedup_base
from quala.runtime.hardware import BUSY

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console, ConsoleOptions
    from rich.table import Table

MIB = 2**20
ABSENT = "-"
UNBOUND = 10_000
"""More columns of characters than any table takes."""
BORDER = 3
"""Columns of characters that a line and two blanks take."""


def format_number(value: float | None, form: str = "{:.2f}") -> str:
    """Return a figure as text, a dash for None."""
    return ABSENT if value is None else form.format(value)


def to_frame(records: Iterable[Mapping[str, object]]) -> DataFrame:
    """Return the records as a frame of objects, so that counts beside None remain integers."""
    # pandas takes half a second to import
    from pandas import DataFrame

    return DataFrame(list(records), dtype=object)


def to_csv(records: Iterable[Mapping[str, object]]) -> str:
    """Return the records as CSV with a header; None is empty.

    Text that a spreadsheet would compute, such as `=1+1`, gets an apostrophe in front.
    """
    frame = to_frame(records).map(_still).rename(columns=_still)
    return frame.to_csv(index=False, lineterminator="\n")


def _still(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return visible(f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value)


def to_markdown(frame: DataFrame, *, bold: Collection[int] = ()) -> str:
    """Return a frame of texts as a Markdown table; `bold` are the numbers of bold rows."""
    lines = [list(map(markdown, frame.columns)), ["---"] * len(frame.columns)]
    for number, row in enumerate(frame.to_numpy().tolist()):
        texts = list(map(markdown, row))
        lines.append([f"**{text}**" for text in texts] if number in bold else texts)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True, eq=False)
class TerminalTable:
    """A frame of texts for the terminal; `left` are left-aligned columns, `bold` rows.

    Where the terminal is too narrow for whole words, lengths are broken at a comma and columns
    left out, the first of `optional` first; a note below the table names them.
    """

    frame: DataFrame
    title: str | None
    left: Collection[str]
    bold: Collection[int] = ()
    optional: Sequence[str] = ()
    notes: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """Yield the table with the columns that fit."""
        table, room = self._table(self.frame), options.max_width
        if table.__rich_measure__(console, options.update(width=UNBOUND)).maximum > room:
            broken = self.frame.replace(
                {r"((?:\d+,){3})(?=\d)": r"\1\n", r" \((.* to .*)\)": r"\n(\1)"}, regex=True
            )
            for count in range(len(self.optional) + 1):
                out = [name for name in self.optional[:count] if name in broken]
                widths = _widths(broken.drop(columns=out), room, self.left)
                if widths:
                    table = self._table(broken.drop(columns=out), widths, out)
                    break
        yield table

    def _table(
        self, frame: DataFrame, widths: Sequence[int] = (), out: Sequence[str] = ()
    ) -> Table:
        from rich.table import Table

        left_out = [f"Left out in this width: {', '.join(out)}."] if out else []
        notes = [*self.notes, *left_out]
        table = Table(
            title=cell(self.title, "table.title") if self.title else None,
            title_justify="left",
            header_style="bold",
            caption=cell("\n".join(notes), "table.caption") if notes else None,
            caption_justify="left",
        )
        sizes: Sequence[int | None] = widths or [None] * len(frame.columns)
        for name, width in zip(frame.columns, sizes, strict=True):
            justify: Literal["left", "right"] = "left" if name in self.left else "right"
            table.add_column(cell(name), justify=justify, overflow="fold", width=width)
        for number, texts in enumerate(frame.to_numpy().tolist()):
            table.add_row(*map(cell, texts), style="bold green" if number in self.bold else None)
        return table


def _widths(frame: DataFrame, room: int, last: Collection[str]) -> list[int]:
    """Return widths of columns that keep words whole, and lines where possible.

    Columns in `last` get what the others leave. Without room for the words there are none.
    """
    from rich.cells import cell_len

    words, lines = [], []
    for name in frame.columns:
        texts = frame[name].tolist()
        words.append(max(cell_len(word) for text in [name, *texts] for word in text.split()))
        lines.append(
            max([words[-1], *(cell_len(one) for text in texts for one in text.split("\n"))])
        )
    left = room - sum(words) - BORDER * len(words) - 1
    if left < 0:
        return []
    widths = list(words)
    numbers_first = sorted(range(len(words)), key=lambda column: frame.columns[column] in last)
    for column in numbers_first:
        more = min(left, lines[column] - words[column])
        widths[column] += more
        left -= more
    return widths


PART_NAMES = dict(zip(PARTS, ("F1 with answer", "F1 without"), strict=True))
"""Headings of the questions with and without an answer (SQuAD 2.0)."""


UNITS = "Heads x neurons"
"""Heading of the units of a sub-network's layers."""


def report_texts(rows: Sequence[Row], *, tails: bool) -> DataFrame:
    """Return the rows of a report as texts, exact match only where it was measured.

    Scores have their 95 % intervals, and their heading the number of test examples, where they
    are known. `tails` adds the 90th and 99th percentile to the median latency.
    """
    examples = _examples(rows)
    known, counted = (" (95 %)", f", n = {examples:,}") if examples else ("", "")
    exact = [f"EM{known}"] if any(row.exact_match is not None for row in rows) else []
    parts = {PART_NAMES[key]: key for key in _parts(rows)}
    elastic = _elastic(rows)
    base, own = speedup_base(rows), float_model(rows)
    over = {} if own in (None, base) else {f"Speed-up over {own.model}": "own_speedup"}
    over[f"Speed-up over {base.model}" if base else "Speed-up"] = "speedup"
    return to_frame(
        {
            "Model": row.model,
            "Precision": row.precision,
            "Size MiB": f"{row.size_bytes / MIB:.2f}",
            "Tokens per layer": row.tokens_only,
            **({UNITS: layers_text(row.layers or ABSENT)} if elastic else {}),
            **{name: score_text(row.exact_match, row.exact_match_interval) for name in exact},
            f"{metric_name(row.metric)}{counted}{known}": score_text(row.score, row.interval),
            **{name: format_number(getattr(row, key), "{:.2f}") for name, key in parts.items()},
            "Latency ms": _latency(row, tails=tails),
            **{name: format_number(getattr(row, key), "{:.2f}x") for name, key in over.items()},
            "GMACs padded": f"{row.macs_padded / GIGA:.3f}",
            "GMACs mean": f"{row.macs_mean / GIGA:.3f}",
        }
        for row in rows
    )


def footnotes(rows: Sequence[Row]) -> list[str]:
    """Return the sentences that the table of a report needs."""
    found = []
    examples = _examples(rows)
    if examples:
        found.append(
            f"Scores are of {examples:,} test examples; (low to high) are 95 % intervals, as if "
            "the examples were independent."
        )
    if _elastic(rows):
        found.append(
            f"{UNITS} are those of each layer that runs, `-` all of them. Size is what a model of "
            "these alone would take; one file serves all rows of a model."
        )
    for row in rows:
        found += _of_choice(row, rows) if row.role == "chosen" else []
    notes = (row.latency_ms.conditions.note for row in rows
             if row.latency_ms and row.latency_ms.conditions)  # fmt: skip
    found += dict.fromkeys(f"{BUSY} {note}" for note in notes if note)
    return found


def _of_choice(row: Row, rows: Sequence[Row]) -> list[str]:
    """Return what the chosen lengths lose, and why they were chosen where that is known."""
    found = [row.note] if row.note else []
    full = next((one for one in rows if one.model == row.model and one.lengths is None), row)
    if row.loss_interval and full.score is not None and row.score is not None:
        loss, (low, high) = full.score - row.score, row.loss_interval
        word = "lose" if loss >= 0 else "gain"
        units = f" and layers ({layers_text(row.layers)})" if row.layers else ""
        low, high = (low, high) if loss >= 0 else (-high, -low)
        found.append(
            f"The chosen lengths{units} {word} {abs(loss):.2f} {metric_name(row.metric)} "
            f"({low:.2f} to {high:.2f}) against the full length, on the same test examples."
        )
    return found


def _examples(rows: Sequence[Row]) -> int:
    return max((row.examples or 0 for row in rows), default=0)


def _latency(row: Row, *, tails: bool) -> str:
    latency = row.latency_ms
    if latency is None:
        return ABSENT
    shown = (latency.median, latency.p90, latency.p99) if tails else (latency.median,)
    return " / ".join(f"{one:.2f}" for one in shown) + f" {BUSY}" * latency.busy


def terminal_table(rows: Sequence[Row], *, title: str | None = None) -> TerminalTable:
    """Return the table of a report for the terminal, in few columns; the chosen point is bold."""
    texts = report_texts(rows, tails=False).drop(columns="GMACs padded")
    exact = [name for name in texts.columns if name.startswith("EM")]
    return TerminalTable(
        texts.replace(r" \((.* to .*)\)", r"\n(\1)", regex=True),  # intervals on their own lines
        title=title,
        left=("Model", "Precision", "Tokens per layer", UNITS),
        bold=_chosen(rows),
        optional=(*exact, *PART_NAMES.values(), "Precision", "Size MiB", "GMACs mean"),
        notes=footnotes(rows),
    )


def markdown_table(rows: Sequence[Row]) -> str:
    """Return the table of a report in Markdown; latencies are median / 90th / 99th percentile."""
    frame = report_texts(rows, tails=True)
    named = frame.rename(columns={"Latency ms": "Latency ms (p50 / p90 / p99)"})
    return to_markdown(named, bold=_chosen(rows))


def csv_text(rows: Sequence[Row]) -> str:
    """Return the table of a report as CSV, unrounded; absent figures are empty."""
    elastic = _elastic(rows)
    return to_csv(
        {
            "model": row.model,
            "precision": row.precision,
            "size_bytes": row.size_bytes,
            "tokens_per_layer": row.tokens_only,
            **({"layers": row.layers} if elastic else {}),
            "examples": row.examples,
            "exact_match": row.exact_match,
            **_bounds("exact_match", row.exact_match_interval),
            row.metric: row.score,
            **_bounds(row.metric, row.interval),
            **{name: getattr(row, name) for name in _parts(rows)},
            **_bounds("loss", row.loss_interval),
            "latency_ms_median": row.latency_ms and row.latency_ms.median,
            "latency_ms_p90": row.latency_ms and row.latency_ms.p90,
            "latency_ms_p99": row.latency_ms and row.latency_ms.p99,
            "latency_busy": row.latency_ms and str(row.latency_ms.busy).lower(),
            "macs_padded": row.macs_padded,
            "macs_mean": row.macs_mean,
            "own_speedup": row.own_speedup,
            "speedup": row.speedup,
            "role": row.role,
        }
        for row in rows
    )


def _elastic(rows: Sequence[Row]) -> bool:
    return any(row.layers for row in rows)


def _parts(rows: Sequence[Row]) -> list[str]:
    return [name for name in PARTS if any(getattr(row, name) is not None for row in rows)]


def _bounds(name: str, interval: Bounds | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def data_lines(data: Mapping[str, Any]) -> dict[str, str]:
    """Return what is known of the data as texts by their labels."""

    def counted(counts: Mapping[str, float]) -> str:
        return ", ".join(
            f"{name}: {count:{',' if isinstance(count, int) else 'g'}}"
            for name, count in counts.items()
        )

    found = {"title": data.get("title", "")}
    found |= {
        f"files, {split}": ", ".join(files) for split, files in data.get("files", {}).items()
    }
    found["rows"] = counted(data.get("slices", {}))
    found |= {f"labels, {name}": counted(one) for name, one in data.get("labels", {}).items()}
    found["left out"] = counted(data.get("left_out", {}))
    found["notes"] = " ".join(data.get("notes", []))
    return {label: text for label, text in found.items() if text}


MOST_CLASSES = 100
"""Of a table in a report, the most frequent ones; report.json has all."""


def class_texts(report: Report) -> DataFrame | None:
    """Return precision, recall and F1 of each class for the row that counts, as texts.

    That is the chosen row, else the last. The F1 of the first row, which others are compared
    with, stands beside it. None for data without classes.
    """
    known = [
        (row, classes) for row in report.rows if (classes := _details(report, row, "classes"))
    ]
    if not known:
        return None
    base, others = known[0]
    shown, own = next((one for one in known if one[0].role == "chosen"), known[-1])
    first = {one["class"]: one["f1"] for one in others}
    compared = [] if base is shown else [f"F1 of {base.model}"]
    classes = sorted(own, key=lambda one: -one["support"])[:MOST_CLASSES]
    return to_frame(
        {
            "Class": one["class"],
            **{name.capitalize(): f"{one[name]:.2f}" for name in ("precision", "recall", "f1")},
            **{name: format_number(first.get(one["class"])) for name in compared},
            "Support": f"{one['support']:,}",
        }
        for one in classes
    )


def _details(report: Report, row: Row, key: str) -> Any:
    return report.data.get("details", {}).get(f"{row.model} {row.tokens}", {}).get(key)


def other_metrics(report: Report) -> list[str]:
    """Return a sentence with the metrics beside the score of the chosen row, if there are any."""
    found = []
    for row in report.rows:
        metrics = _details(report, row, "metrics")
        if row.role == "chosen" and metrics:
            listed = (f"{metric_name(name)} {score:.2f}" for name, score in metrics.items())
            found.append(f"Of the chosen row: {', '.join(listed)}.")
    return found


def _chosen(rows: Sequence[Row]) -> list[int]:
    return [number for number, row in enumerate(rows) if row.role == "chosen"]
