"""Hostile texts in titles, names and labels are text in every file of a report and comparison."""

from __future__ import annotations

import csv
import io
import json
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from quala import redact
from quala.report.charts import report_charts
from quala.report.figure import draw_charts
from quala.report.page import build_report, chart_html
from quala.report.table import to_csv, to_frame, to_markdown
from quala.results import Report

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "image": "<img src=x onerror=alert(1)>",
    "ending": "</script></title><b>",
    "template": "{{ 7 * 7 }}{% raw %}",
    "plotly": "%{x}<a href='javascript:1'>x</a><br>",
    "math": r"$\frac{1}{$ \def x$ $_^",
    "dollar": "$5 and $6",
    "underscore": "_hidden",
    "table": "a|b`c`",
    "lines": "a\n\n# b\r\n| c",
    "link": "[x](javascript:1)",
    "markup": "[/x][bold red]:smile:",
    "escape": "\x1b[2J\x07\x9b1m",
    "nothing": "\x00",
    "bidi": "\u202eabc\u2066",
    "surrogate": "\ud800",
    "other letters": "漢字 🙂 עברית",
    "long": "x" * 3000,
}


class Page(HTMLParser):
    """Counts the elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]


def tags(text: str) -> list[str]:
    page = Page()
    page.feed(text)
    return page.seen


def built(report: Report, text: str, folder: Path) -> Path:
    rows = [
        replace(row, model=text if row.model == "integer" else row.model) for row in report.rows
    ]
    build_report(
        folder,
        rows,
        candidates=report.candidates,
        title=text,
        data={"title": text, "notes": [text]},
        provenance={"command": text},
    )
    return folder


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_are_text_in_every_file(
    text: str, made_up_report: Report, tmp_path: Path
) -> None:
    plain = built(made_up_report, "plain", tmp_path / "plain")
    hostile = built(made_up_report, text, tmp_path / "hostile")
    files = {name: (hostile / name).read_bytes().decode() for name in
             ("report.json", "report.md", "report.csv", "report.html")}  # fmt: skip
    for name, content in files.items():
        begin = content.rfind("</script>\n</head>") if name.endswith("html") else 0
        assert not {"\x1b", "\x00", "\x9b", "\u202e", "\u2066", "\r"} & set(content[begin:]), name
    assert tags(files["report.html"]) == tags((plain / "report.html").read_text())
    assert json.loads(files["report.json"])["title"]
    lines = files["report.md"].splitlines()
    assert len(lines) == len((plain / "report.md").read_text().splitlines())
    assert "<script" not in files["report.md"]
    (head, *rows) = csv.reader(io.StringIO(files["report.csv"]))
    assert {len(row) for row in rows} == {len(head)}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_are_drawn(text: str, made_up_report: Report, tmp_path: Path) -> None:
    chart = report_charts(made_up_report)[0]
    series = [replace(one, name=text, marks=(replace(one.marks[0], label=text[:99]),))
              for one in chart.series[:2]]  # fmt: skip
    named = replace(chart, cost=text, score=text, series=tuple(series),
                    line=replace(chart.line, name=text))  # fmt: skip
    with warnings.catch_warnings(action="error"):
        warnings.filterwarnings("ignore", "constrained_layout not applied")
        draw_charts([named], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert tags(chart_html(named)) == tags(chart_html(chart))


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1+1", "@SUM(1)", "\t=1", "\r=1"])
def test_spreadsheets_compute_nothing(text: str) -> None:
    table = csv.reader(io.StringIO(to_csv([{"a": text, text: -1.5}])))
    head, row = list(table)
    assert row[0].startswith("'")
    assert head[1].startswith("'")
    assert row[1] == "-1.5"


def test_cells_of_markdown_hold_one_line() -> None:
    text = to_markdown(to_frame([{"a|b": "x|y\nz", "c": "<b>`d`"}]), bold=[0])
    assert text == "| a\\|b | c |\n| --- | --- |\n| **x\\|y z** | **&lt;b>\\`d\\`** |"


def test_reports_have_no_secret(
    made_up_report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redact, "_hidden", {})
    redact.hide_variable("PLANTED", "planted-Zq7")
    built(made_up_report, "planted-Zq7 x://u:inl1ne@h?token=inl1ne", tmp_path)
    for file in tmp_path.iterdir():
        if file.suffix != ".png" and file.name != "report.csv":
            text = file.read_text()
            assert "${oc.env:PLANTED} x://u:***@h?token=***" in text, file
