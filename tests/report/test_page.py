"""The folder of a report: every file, and what is in it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from quala.report.page import build_report
from quala.results import Report, read_report


@pytest.fixture
def built(made_up_report: Report, tmp_path: Path) -> Path:
    build_report(
        tmp_path,
        made_up_report.rows,
        candidates=made_up_report.candidates,
        provenance=made_up_report.provenance,
    )
    return tmp_path


def test_every_file_is_written(built: Path) -> None:
    names = {file.name for file in built.iterdir()}
    assert names == {"report.json", "report.md", "report.csv", "report.html", "front.png"}


def test_report_reads_back(built: Path, made_up_report: Report) -> None:
    assert read_report(built) == made_up_report


def test_metrics_are_returned_and_written(made_up_report: Report, tmp_path: Path) -> None:
    metrics = build_report(tmp_path, made_up_report.rows)
    assert json.loads((tmp_path / "report.json").read_text())["metrics"] == metrics


def test_png_is_a_picture(built: Path) -> None:
    assert (built / "front.png").read_bytes().startswith(b"\x89PNG")


def test_page_loads_nothing_from_elsewhere(built: Path) -> None:
    page = (built / "report.html").read_text()
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=", page)


def test_page_escapes_text(built: Path) -> None:
    page = (built / "report.html").read_text()
    assert "quala run &lt;made up&gt; &amp; more" in page
    assert "<made up>" not in page


def test_page_shows_table_and_hover_text(built: Path) -> None:
    page = (built / "report.html").read_text()
    assert '<tr class="chosen"><td>integer</td>' in page
    assert "90, 60, 30" in page


def test_no_measured_latency_and_no_front_still_make_a_report(
    made_up_report: Report, tmp_path: Path
) -> None:
    row = replace(made_up_report.rows[0], latency_ms=None, score=None)
    assert build_report(tmp_path, [row])["front_points"] == 0


def test_the_data_are_on_the_page(made_up_report: Report, tmp_path: Path) -> None:
    data = {"title": "mine & yours", "left_out": {"no <answer>": 3}}
    build_report(tmp_path, made_up_report.rows, data=data)
    page, text = ((tmp_path / name).read_text() for name in ("report.html", "report.md"))
    assert "<td>mine &amp; yours</td>" in page
    assert "<td>no &lt;answer&gt;: 3</td>" in page
    assert "- left out: no &lt;answer>: 3" in text
    assert read_report(tmp_path).data == data


def test_the_notes_are_on_the_page(made_up_report: Report, tmp_path: Path) -> None:
    build_report(tmp_path, [replace(row, examples=8) for row in made_up_report.rows])
    for name in ("report.html", "report.md"):
        assert "Scores are of 8 test examples" in (tmp_path / name).read_text()
