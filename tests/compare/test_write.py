"""The folder of a comparison: every file, and what is in it."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tracked import Filled

from quala.compare.group import Comparison, Table
from quala.compare.published import published
from quala.compare.text import measured_texts, notes
from quala.compare.write import build_comparison, styles, table_charts
from quala.errors import QualaError
from quala.report.charts import Chart, Mark
from quala.report.figure import MARKERS


@pytest.fixture(scope="module")
def comparison(filled: Filled) -> Comparison:
    """All runs, and one that could not be read."""
    return replace(filled.compared(), left_out={"0123": "It was <damaged>."})


@pytest.fixture(scope="module")
def built(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The written comparison."""
    folder = tmp_path_factory.mktemp("built")
    build_comparison(folder, comparison)
    return folder


def test_every_file_is_written(built: Path) -> None:
    names = {file.name for file in built.iterdir()}
    assert names == {
        "compare.html", "compare.md", "compare.csv", "compare.json", "compare-1.png",
        "compare-2.png",
    }  # fmt: skip
    assert (built / "compare-2.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_compare_is_one_sentence() -> None:
    with pytest.raises(QualaError, match="at least one run"):
        Comparison.of([], {})


def test_json_has_every_seed(built: Path) -> None:
    tables = json.loads((built / "compare.json").read_text())["tables"]
    rows = {(table["metric"], row["name"], row["setting"]): row
            for table in tables for row in table["rows"]}  # fmt: skip
    row = rows["f1", "KDLSQ-BERT", "base"]
    assert row["score"]["values"] == [76.0, 77.0, 75.6]
    assert [trial["seeds"] for trial in row["trials"]] == [[0], [1], [2]]
    assert row["latency_ms"][0]["runtime"] == "onnxruntime"
    assert row["latency_share"][0]["mean"] == pytest.approx(10.0 / 25.0)
    assert row["trials"][0]["costs"]["training"][0]["seconds"] == 5.0


def test_csv_reads_back(built: Path, comparison: Comparison) -> None:
    lines = list(csv.DictReader(io.StringIO((built / "compare.csv").read_text())))
    assert len(lines) == sum(len(table.lines) for table in comparison.tables)
    base = next(one for one in lines if one["setting"] == "base")
    assert float(base["score"]) == pytest.approx(76.2)
    assert (base["n"], base["bits"], base["seeds"]) == ("3", "2-2-8", "0 1 2")
    assert float(base["teacher_seconds"]) == 100.0
    assert float(base["speedup"]) == pytest.approx(2.5)


def test_markdown_has_a_table_for_each_data(built: Path) -> None:
    text = (built / "compare.md").read_text()
    assert text.count("| # | System |") == 2
    assert "| EM | EM 95 % | F1 | 95 % | n |" in text
    assert "| 76.20 ± 0.72 | 71.2 to 81.2 | 3 |" in text
    assert "| 78.50 (78.00–79.00) | 73.5 to 83.5 | 2 |" in text
    assert "the interval of the score over the 200 test examples" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_the_published_column_is_apart_from_the_measured(comparison: Comparison) -> None:
    table = next(one for one in comparison.tables if one.metric == "f1")
    frame = measured_texts(table)
    assert frame.columns[-1] == "Published by its paper"
    for line, texts in zip(table.lines, frame.to_numpy().tolist()):
        claim = texts.pop()
        assert claim == (line.claim.text() if line.claim else "-")
        assert claim == "-" or not any(claim in text for text in texts)
    quala = next(one for one in table.lines if one.system == "quala_minilm")
    assert quala.claim is not None
    assert "88.86" in quala.claim.text()


def test_the_page_loads_nothing_from_elsewhere_and_escapes(built: Path) -> None:
    page = (built / "compare.html").read_text()
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=", page)
    assert "It was &lt;damaged&gt;." in page
    assert "<damaged>" not in page


def test_the_page_names_every_claim_and_its_source(built: Path, comparison: Comparison) -> None:
    page = (built / "compare.html").read_text()
    for claim in comparison.claims:
        assert f"arXiv {published().papers[claim.system]}" in page
        assert published().sources[claim.source].replace("'", "&#39;") in page


def _texts(table: Table) -> list[list[str]]:
    found: list[list[str]] = measured_texts(table).to_numpy().tolist()
    return found


def _row(comparison: Comparison, number: int, changed: Any) -> tuple[list[str], list[str]]:
    """Return the cells of a changed line by heading's place, and the notes of its table."""
    table = next(one for one in comparison.tables if one.metric == "f1")
    lines = [changed(line) if line.number == number else line for line in table.lines]
    table = replace(table, lines=tuple(lines))
    return _texts(table)[number - 1], notes(table)


def test_another_place_is_marked_and_named(comparison: Comparison) -> None:
    def moved(line: Any) -> Any:
        (place, spread), *_ = line.latencies.items()
        return replace(line, latencies={replace(place, threads=1): spread})

    texts, told = _row(comparison, 7, moved)
    assert "10.00 [b]" in texts
    assert any("[b] onnxruntime, 1 threads" in note for note in told)
    assert any(note.startswith("Not in the latency chart") and "7" in note for note in told)


def test_one_place_needs_no_mark(comparison: Comparison) -> None:
    texts, told = _row(comparison, 7, lambda line: line)
    assert "10.00" in texts
    assert not any("[a]" in note for note in told)


def test_another_training_machine_is_marked(comparison: Comparison) -> None:
    def elsewhere(line: Any) -> Any:
        (trial,) = line.trials
        works = tuple(replace(work, machine="NVIDIA H100") for work in trial.costs.training)
        costs = replace(trial.costs, training=works)
        return replace(line, trials=(replace(trial, costs=costs),))

    texts, told = _row(comparison, 7, elsewhere)
    assert "20 [B]" in texts
    assert any("[B] NVIDIA H100" in note for note in told)


def test_what_is_not_tracked_is_a_bound_or_nothing(comparison: Comparison) -> None:
    def given(line: Any, *, trained: bool) -> Any:
        (trial,) = line.trials
        costs = replace(trial.costs, missing=("refine",))
        costs = costs if trained else replace(costs, training=())
        return replace(line, trials=(replace(trial, costs=costs),))

    texts, told = _row(comparison, 7, lambda line: given(line, trained=True))
    assert "≥ 20" in texts
    assert any("lower bound" in note for note in told)
    texts, _ = _row(comparison, 7, lambda line: given(line, trained=False))
    assert texts[-5:-1] == ["10.00", "2.50x", "-", "-"]


def test_zeros_are_told_where_there_are_any(comparison: Comparison) -> None:
    texts, told = _row(comparison, 7, lambda line: line)
    assert "20 M (10 M not 0)" in texts
    assert any("pruned or rounded" in note for note in told)
    table = next(one for one in comparison.tables if one.metric == "f1")
    teacher = _texts(table)[0]
    assert "20 M" in teacher


@pytest.fixture(scope="module")
def table(filled: Filled) -> Table:
    """The table of the questions."""
    return next(one for one in filled.compared().tables if one.metric == "f1")


def charts(table: Table) -> tuple[Chart, Chart]:
    """Return the charts of a table."""
    return table_charts(table, styles([line.system for line in table.lines]))


def numbered(chart: Chart) -> list[Mark]:
    """Return the marks of the table's lines."""
    return [mark for one in chart.series for mark in one.marks if mark.label]


def dominated(mark: Mark, others: list[Mark]) -> bool:
    """Say whether another mark is at least as good in both and better in one."""
    return any(
        other.x <= mark.x and other.y >= mark.y and (other.x, other.y) != (mark.x, mark.y)
        for other in others
    )


def test_the_front_is_drawn_over_all_systems(table: Table) -> None:
    for chart in charts(table):
        marks = numbered(chart)
        expected = {(mark.x, mark.y) for mark in marks if not dominated(mark, marks)}
        assert {(mark.x, mark.y) for mark in chart.front} == expected


def test_every_line_is_a_mark_with_its_spread(table: Table) -> None:
    size, latency = charts(table)
    assert size.cost == "Size, MiB"
    assert "onnxruntime, 2 threads" in latency.cost
    marks = {int(mark.label): mark for mark in numbered(size)}
    assert sorted(marks) == [one.number for one in table.lines]
    assert marks[2].error == pytest.approx(np.std([76.0, 77.0, 75.6], ddof=1))
    assert marks[4].error == pytest.approx(0.5)


def test_a_length_adaptive_system_shows_its_other_lengths(table: Table) -> None:
    latency = charts(table)[1]
    others = {
        system: [(mark.x, mark.y) for one in latency.series for mark in one.marks
                 if one.key == system and not mark.label]
        for system in ("quala_minilm", "kdlsq")
    }  # fmt: skip
    assert others["quala_minilm"] == [(10.0 / 25.0, 84.0)]
    assert others["kdlsq"] == []


def test_without_latencies_macs_are_shown(table: Table) -> None:
    bare = replace(table, lines=tuple(replace(line, latencies={}) for line in table.lines))
    assert [chart.cost for chart in charts(bare)] == ["Size, MiB", "Mean GMACs per input"]


def test_times_of_another_place_are_not_drawn(table: Table) -> None:
    first = table.lines[1]
    (place,) = first.latencies
    there = replace(place, threads=1)
    moved = replace(
        first, latencies={there: first.latencies[place]}, shares={there: first.shares[place]}
    )
    lines = [moved if line is first else line for line in table.lines]
    latency = charts(replace(table, lines=tuple(lines)))[1]
    assert 2 not in [int(mark.label) for mark in numbered(latency)]


def test_latencies_are_shares_of_one_teachers(table: Table) -> None:
    latency = charts(table)[1]
    marks = {int(mark.label): mark.x for mark in numbered(latency)}
    assert latency.cost.startswith("Median latency as a share of the teacher's")
    assert (marks[1], marks[2]) == pytest.approx((1.0, 10.0 / 25.0))


def test_with_two_teachers_or_a_row_without_one_latencies_are_milliseconds(table: Table) -> None:
    teacher, first, *others = table.lines
    for lines in (
        (teacher, teacher, first, *others),
        (teacher, replace(first, shares={}), *others),
    ):
        latency = charts(replace(table, lines=lines))[1]
        marks = {int(mark.label): mark.x for mark in numbered(latency)}
        assert "per input, ms" in latency.cost
        assert (marks[1], marks[2]) == (25.0, 10.0)


def test_systems_differ_in_color_and_marker() -> None:
    names = [f"system {number}" for number in range(9)]
    found = styles([*names, "fine-tuned"])
    assert len({style.color for style in found.values()}) == 10
    assert len({MARKERS[style.symbol] for style in found.values()}) == 10
    assert len({style.symbol for style in found.values()}) == 10
