"""The table in its three forms."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from quala.report.table import csv_text, data_lines, footnotes, markdown_table, terminal_table
from quala.results import Latency, Report
from quala.runtime.hardware import Conditions


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


def test_scores_have_intervals_and_the_heading_their_number(made_up_report: Report) -> None:
    rows = [replace(row, examples=1200, interval=((row.score or 0) - 1, (row.score or 0) + 0.5),
                    exact_match_interval=(1.0, 2.0)) for row in made_up_report.rows]  # fmt: skip
    text = markdown_table(rows)
    assert "| EM (95 %) | F1, n = 1,200 (95 %) |" in text
    assert "90.50 (89.5 to 91.0)" in text
    assert "87.50 (1.0 to 2.0)" in text
    assert footnotes(rows) == [
        "Scores are of 1,200 test examples; (low to high) are 95 % intervals, as if the examples "
        "were independent."
    ]
    line = list(csv.DictReader(io.StringIO(csv_text(rows))))[5]
    assert (line["examples"], line["f1_low"], line["f1_high"]) == ("1200", "89.5", "91.0")


def test_an_older_report_has_no_intervals_and_no_notes(made_up_report: Report) -> None:
    assert footnotes(made_up_report.rows) == []
    assert "| EM | F1 | Latency" in markdown_table(made_up_report.rows)


def test_what_the_chosen_lengths_lose_is_told(made_up_report: Report) -> None:
    def told(score: float, interval: tuple[float, float]) -> list[str]:
        rows = [replace(row, score=score, loss_interval=interval) if row.role == "chosen" else row
                for row in made_up_report.rows]  # fmt: skip
        return footnotes(rows)

    end = "against the full length, on the same test examples."
    assert told(90.5, (0.25, 2.75)) == [f"The chosen lengths lose 1.50 F1 (0.25 to 2.75) {end}"]
    assert told(92.5, (-1.5, 0.5)) == [f"The chosen lengths gain 0.50 F1 (-0.50 to 1.50) {end}"]


def test_why_the_full_length_was_chosen_is_told(made_up_report: Report) -> None:
    rows = [*made_up_report.rows[:3],
            replace(made_up_report.rows[3], role="chosen", note="Why.")]  # fmt: skip
    assert footnotes(rows) == ["Why."]


def test_times_of_a_busy_machine_are_marked(made_up_report: Report) -> None:
    busy, calm = Conditions(1.5, 2, 0.2), Conditions(0.1, 2, 0.01)
    rows = [replace(row, latency_ms=Latency(60.0, 66.0, 80.0, busy if number else calm))
            for number, row in enumerate(made_up_report.rows)]  # fmt: skip
    lines = markdown_table(rows).splitlines()[2:]
    assert ["60.00 / 66.00 / 80.00 †" in line for line in lines] == [False] + [True] * 7
    assert footnotes(rows) == [f"† {busy.note}"]


def test_the_speed_up_over_ones_own_model_stands_first(made_up_report: Report) -> None:
    own = replace(made_up_report.rows[0], role="full")
    base = replace(own, model="bert-base, random weights", role="baseline", score=None)
    heading = markdown_table([base, own]).splitlines()[0]
    assert "| Speed-up over teacher | Speed-up over bert-base, random weights |" in heading
    assert markdown_table([own]).splitlines()[0].count("Speed-up") == 1


def test_the_notes_are_below_the_table(made_up_report: Report) -> None:
    rows = [replace(row, examples=8) for row in made_up_report.rows]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(terminal_table(rows))
    assert "Scores are of 8 test examples" in console.export_text()


def test_what_is_known_of_the_data_is_text() -> None:
    data = {
        "title": "mine", "files": {"train": ["a.csv", "b.csv"]}, "slices": {"train": 1200},
        "labels": {"train": {"yes": 1800}, "test": {"mean": 2.2044117647058825}},
        "left_out": {}, "notes": ["A.", "B."],
    }  # fmt: skip
    assert data_lines(data) == {
        "title": "mine", "files, train": "a.csv, b.csv", "rows": "train: 1,200",
        "labels, train": "yes: 1,800", "labels, test": "mean: 2.20441", "notes": "A. B.",
    }  # fmt: skip
    assert data_lines({}) == {}


@pytest.mark.parametrize("width", [66, 80, 100, 160])
def test_a_narrow_terminal_breaks_no_word_or_number(made_up_report: Report, width: int) -> None:
    long = "1024,512,384,256,128,64"
    rows = [
        replace(row, tokens=long, exact_match=50.0, exact_match_interval=(20.0, 80.0), examples=8)
        for row in made_up_report.rows
    ]
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(terminal_table(rows, title="Title"))
    text = console.export_text()
    cells = {part for line in text.splitlines() for part in re.split("[│┃ ]+", line)}
    assert {"teacher", "F1,", "Latency", "60.00"} <= cells
    whole = long in cells
    assert whole or {"1024,512,384,", "256,128,64"} <= cells
    note = re.search(r"Left out in this width: ([^.]*)", " ".join(text.split()))
    assert ("Precision" in cells) != bool(note and "Precision" in note[1])
    assert bool(note) == (width <= 80)
    assert all(len(line) <= width for line in text.splitlines())


def test_metrics_have_names(made_up_report: Report) -> None:
    row = replace(made_up_report.rows[0], metric="pearson_spearman", examples=8)
    assert "| Pearson/Spearman, n = 8 (95 %) |" in markdown_table([row])
    assert "pearson_spearman" in csv_text([row])


def test_the_heads_and_neurons_that_run_have_a_column(made_up_report: Report) -> None:
    assert "Heads x neurons" not in markdown_table(made_up_report.rows)
    assert "layers" not in csv_text(made_up_report.rows).partition("\n")[0]
    rows = [
        replace(row, tokens="full@6x768,-,6x768", layers="6x768,-,6x768", loss_interval=(0.0, 1.0))
        if row.role == "chosen"
        else row
        for row in made_up_report.rows
    ]
    text = markdown_table(rows)
    assert "| Tokens per layer | Heads x neurons |" in text
    assert "| **full** | **6x768 without layer 2** |" in text
    assert "| full | - |" in text
    line = list(csv.DictReader(io.StringIO(csv_text(rows))))[5]
    assert (line["tokens_per_layer"], line["layers"]) == ("full", "6x768,-,6x768")
    notes = footnotes(rows)
    assert notes[0].startswith("Heads x neurons are those of each layer that runs")
    assert "The chosen lengths and layers (6x768 without layer 2) lose 1.50 F1" in notes[-1]
