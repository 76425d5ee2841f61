"""Rows and reports: round trips, speed-ups, the figures that compare runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from quala.errors import QualaError
from quala.results import Latency, Report, predictions_file, read_report, with_speedups
from quala.runtime.hardware import Conditions


def test_json_round_trip(made_up_report: Report) -> None:
    assert Report.from_json(json.loads(json.dumps(made_up_report.to_json()))) == made_up_report


def test_a_report_of_an_older_version_reads(made_up_report: Report) -> None:
    values = json.loads(json.dumps(made_up_report.to_json()))
    for row in values["rows"]:
        later = ("bits", "parameters", "nonzero", "examples", "interval", "exact_match_interval",
                 "loss_interval", "own_speedup", "note")  # fmt: skip
        for key in later:
            del row[key]
        del row["latency_ms"]["conditions"]
    del values["data"]
    assert Report.from_json(values) == made_up_report


def test_what_is_known_of_scores_and_times_reads_back(made_up_report: Report) -> None:
    first, *others = made_up_report.rows
    known = replace(
        first, examples=8, interval=(1.0, 2.0), exact_match_interval=(0.0, 3.0),
        loss_interval=(-1.0, 1.5), note="Why.",
        latency_ms=Latency(60.0, 66.0, 80.0, Conditions(1.5, 2, 0.2)),
    )  # fmt: skip
    report = replace(made_up_report, rows=(known, *others), data={"title": "mine"})
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_a_full_length_that_was_chosen_is_both(made_up_report: Report) -> None:
    rows = [row for row in made_up_report.rows if row.role in ("baseline", "front")]
    full = replace(made_up_report.rows[3], role="chosen")
    report = Report((*rows[:1], full, *rows[1:]))
    assert report.full == report.chosen == full
    metrics = report.metrics()
    assert metrics["f1_full"] == metrics["f1_chosen"] == 92.0
    assert metrics["macs_saved"] == 1.0


def test_the_speed_up_over_ones_own_model_is_another(made_up_report: Report) -> None:
    own = replace(made_up_report.rows[0], role="full")
    base = replace(own, role="baseline", score=None, latency_ms=Latency(240.0, 250.0, 260.0))
    rows = with_speedups([base, own, *made_up_report.rows[1:]])
    assert [row.own_speedup for row in rows[:5]] == [0.25, 1.0, 1.2, 60 / 22, 2.4]
    assert [row.speedup for row in rows[:5]] == [1.0, 4.0, 4.8, 240 / 22, 9.6]


def test_another_format_is_refused(made_up_report: Report) -> None:
    with pytest.raises(QualaError, match="format 2"):
        Report.from_json(made_up_report.to_json() | {"format": 2})


def test_no_rows_are_refused() -> None:
    with pytest.raises(QualaError, match="at least one measured row"):
        Report(())


def test_two_metrics_are_refused(made_up_report: Report) -> None:
    first = made_up_report.rows[0]
    with pytest.raises(QualaError, match="accuracy, f1"):
        Report((first, replace(first, metric="accuracy")))


def test_an_unknown_role_is_refused(made_up_report: Report) -> None:
    with pytest.raises(QualaError, match="chosen"):
        replace(made_up_report.rows[0], role="chosn")


def test_front_rises_with_cost_and_holds_the_chosen_point(made_up_report: Report) -> None:
    costs = [row.macs_mean for row in made_up_report.front]
    assert costs == sorted(costs)
    assert made_up_report.chosen in made_up_report.front


def test_speedups_refer_to_the_baseline(made_up_report: Report) -> None:
    assert [row.speedup for row in made_up_report.rows[:4]] == [1.0, 1.2, 60 / 22, 2.4]


def test_speedups_refer_to_the_first_row_without_a_baseline(made_up_report: Report) -> None:
    rows = with_speedups(made_up_report.rows[1:4:2])
    assert [row.speedup for row in rows] == [1.0, 2.0]


def test_no_speedup_without_a_latency(made_up_report: Report) -> None:
    rows = [replace(row, latency_ms=None) for row in made_up_report.rows]
    assert {row.speedup for row in with_speedups(rows)} == {None}


def test_metrics_compare_full_and_chosen(made_up_report: Report) -> None:
    metrics = made_up_report.metrics()
    assert metrics["f1_full"] == 92.0
    assert metrics["f1_chosen"] == 90.5
    assert metrics["macs_saved"] == 2.0
    assert metrics["front_points"] == 4


def test_hypervolume_by_hand(made_up_report: Report) -> None:
    widths, scores = (0.1, 0.15, 0.2, 0.15), (0.85, 0.905, 0.915, 0.918)
    expected = sum(width * score for width, score in zip(widths, scores))
    assert made_up_report.metrics()["hypervolume"] == pytest.approx(expected)


def test_metrics_without_front_and_scores(made_up_report: Report) -> None:
    bare = Report((replace(made_up_report.rows[0], score=None),))
    assert bare.metrics() == {"front_points": 0.0, "hypervolume": 0.0}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}'])
def test_a_damaged_report_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(QualaError, match="not a report"):
        read_report(tmp_path)


def test_an_absent_report_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(QualaError, match="There is no file"):
        read_report(tmp_path)


def test_layers_are_written_where_there_are_any(made_up_report: Report) -> None:
    assert not any("layers" in row.to_json() for row in made_up_report.rows)
    rows = [replace(row, layers="6x768") for row in made_up_report.rows]
    candidates = [replace(one, layers="6x768,-,6x768") for one in made_up_report.candidates]
    report = replace(made_up_report, rows=tuple(rows), candidates=tuple(candidates))
    values = json.loads(json.dumps(report.to_json()))
    assert Report.from_json(values) == report
    assert "layers" not in made_up_report.to_json()["candidates"][0]


def test_files_of_predictions_have_names_that_a_disk_takes() -> None:
    assert predictions_file("my model", "9,8@6x768") == "my_model_9-8@6x768.json"
    units = ",".join(f"6x{768 + number}" for number in range(48))
    found = {predictions_file("model", f"full@{units}{end}") for end in "12"}
    assert len(found) == 2
    assert all(len(name) < 255 for name in found)
