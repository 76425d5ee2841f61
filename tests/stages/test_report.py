"""The report stage only joins what search and measure left."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from quala.results import Latency, Row, read_report
from quala.stages import report
from quala.workflow import StageContext


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    common: dict[str, Any] = {"precision": "int8", "size_bytes": 10, "macs_padded": 9_000_000}
    rows = [
        Row(model="fine-tuned", tokens="full", role="baseline", score=50.0, macs_mean=4e6,
            latency_ms=Latency(8.0, 9.0, 9.5), **common),
        Row(model="quala", tokens="96,64", role="chosen", lengths=(96, 64), score=49.0,
            macs_mean=3e6, latency_ms=Latency(2.0, 3.0, 3.5), **common),
    ]  # fmt: skip
    folder = tmp_path / "measure"
    folder.mkdir()
    (folder / "rows.json").write_text(json.dumps([asdict(row) for row in rows]))
    return folder


def test_a_report_joins_rows_and_candidates(
    found: Path, measured: Path, configure: Any, tmp_path: Path
) -> None:
    context = StageContext.alone("report", tmp_path)
    figures = report.run(configure("report"), context, {"search": found, "measure": measured})
    names = {"report.json", "report.md", "report.csv", "front.png", "report.html"}
    assert names <= {file.name for file in context.output.iterdir()}
    assert all((context.output / name).stat().st_size for name in names)
    assert figures["speedup_chosen"] == 4.0
    written = read_report(context.output)
    assert written.title == "A toy"
    assert [row.lengths for row in written.rows] == [None, (96, 64)]
    assert [point.macs for point in written.candidates] == [4e6, 3e6, 2e6, 2.5e6]


def test_without_a_search_the_report_is_its_rows(
    measured: Path, configure: Any, tmp_path: Path
) -> None:
    context = StageContext.alone("report", tmp_path)
    report.run(configure("report"), context, {"measure": measured})
    written = read_report(context.output)
    assert [row.model for row in written.rows] == ["fine-tuned", "quala"]
    assert written.candidates == ()
    assert (context.output / "front.png").stat().st_size > 1000


def test_a_report_says_what_its_data_are(measured: Path, configure: Any, tmp_path: Path) -> None:
    (measured / "title.txt").write_text("my questions\n")
    (measured / "data.json").write_text(json.dumps({"slices": {"test": 8}, "notes": ["A."]}))
    context = StageContext.alone("report", tmp_path)
    config = configure("report", title="Small on SQuAD 1.1, two cores")
    report.run(config, context, {"measure": measured})
    written = read_report(context.output)
    assert written.title == "Small on my questions, two cores"
    assert written.data == {"title": "my questions", "slices": {"test": 8}, "notes": ["A."]}


@pytest.mark.parametrize(
    ("text", "name", "title"),
    [
        ("XTC on GLUE, two CPU cores", "SST-2", "XTC on SST-2, two CPU cores"),
        ("XTC on MNLI, the paper's recipe", r"a\1.csv", r"XTC on a\1.csv, the paper's recipe"),
        ("XTC on SQuAD 1.1, two CPU cores", "SQuAD 1.1", "XTC on SQuAD 1.1, two CPU cores"),
        ("XTC on SQuAD 1.1, two CPU cores", None, "XTC on SQuAD 1.1, two CPU cores"),
        ("GLUE on me", "mine", "GLUE on me"),
        ("QuaLA-MiniLM, the demo", "demo", "QuaLA-MiniLM, the demo"),
        ("QuaLA-MiniLM, the demo", "a.csv", "QuaLA-MiniLM on a.csv"),
    ],
)
def test_a_presets_title_names_the_data_that_were_measured(
    text: str, name: str | None, title: str
) -> None:
    assert report.titled(text, {"title": name} if name else {}) == title
