"""The table in its three forms."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

from rich.console import Console

from quala.report.table import csv_text, markdown_table, terminal_table
from quala.results import Report


def test_a_title_is_text_not_markup(made_up_report: Report) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(terminal_table(made_up_report.rows, title="Run [v2] of [/nested]"))
    assert "Run [v2] of [/nested]" in console.export_text()


def test_terminal_table_shows_every_row(made_up_report: Report) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(terminal_table(made_up_report.rows, title="Title"))
    text = console.export_text()
    assert all(row.tokens in text for row in made_up_report.rows)
    assert "2.40x" in text


def test_markdown_has_one_line_a_row(made_up_report: Report) -> None:
    lines = markdown_table(made_up_report.rows).splitlines()
    assert len(lines) == 2 + len(made_up_report.rows)
    assert len({line.count("|") for line in lines}) == 1


def test_markdown_shows_the_tails_of_the_latency(made_up_report: Report) -> None:
    assert "60.00 / 66.00 / 80.00" in markdown_table(made_up_report.rows)


def test_markdown_marks_the_chosen_row(made_up_report: Report) -> None:
    assert "**70, 60, 30**" in markdown_table(made_up_report.rows)


def test_markdown_escapes_bars(made_up_report: Report) -> None:
    row = replace(made_up_report.rows[0], model="a|b")
    assert "a\\|b" in markdown_table([row])


def test_exact_match_has_no_column_without_a_value(made_up_report: Report) -> None:
    rows = [replace(row, exact_match=None, metric="accuracy") for row in made_up_report.rows]
    header = markdown_table(rows).splitlines()[0]
    assert "EM" not in header
    assert "Accuracy" in header


def test_absent_figures_are_a_dash(made_up_report: Report) -> None:
    row = replace(made_up_report.rows[0], score=None, latency_ms=None, speedup=None)
    assert markdown_table([row]).count(" - |") == 3


def test_csv_reads_back(made_up_report: Report) -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(made_up_report.rows))))
    assert [float(line["f1"]) for line in lines] == [row.score for row in made_up_report.rows]
    assert lines[5]["role"] == "chosen"
    assert lines[0]["latency_ms_p99"] == "80.0"
