"""What the charts show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quala.report.charts import LABEL_DISTANCE, label_angles, log_ticks, report_charts
from quala.results import Latency, Report


def test_two_charts_with_all_series(made_up_report: Report) -> None:
    found = report_charts(made_up_report)
    assert len(found) == 2
    kinds = [series.key for series in found[0].series]
    assert kinds == ["candidates", "baseline", "float", "supernet", "integer", "front", "chosen"]


def test_no_latency_chart_without_latencies(made_up_report: Report) -> None:
    rows = tuple(replace(row, latency_ms=None, speedup=None) for row in made_up_report.rows)
    assert [chart.cost for chart in report_charts(Report(rows))] == ["Mean GMACs per input"]


def test_front_is_drawn_from_left_to_right(made_up_report: Report) -> None:
    front = next(one for one in report_charts(made_up_report)[0].series if one.key == "front")
    assert [mark.x for mark in front.marks] == [0.8, 1.0, 1.3, 1.7]


def test_rows_without_a_score_are_not_drawn(made_up_report: Report) -> None:
    baseline = replace(made_up_report.rows[0], score=None)
    kinds = [s.key for s in report_charts(Report((baseline, *made_up_report.rows[1:])))[0].series]
    assert "baseline" not in kinds


def test_integers_of_any_width_are_integer_rows(made_up_report: Report) -> None:
    rows = [replace(row, precision=row.precision.replace("int8", "w2e2a8"))
            for row in made_up_report.rows]  # fmt: skip
    low = replace(made_up_report, rows=tuple(rows))
    marks, before = (
        {series.key: len(series.marks) for series in report_charts(report)[0].series}
        for report in (low, made_up_report)
    )
    assert marks == before
    assert marks["integer"] == 1


def test_the_line_leaves_out_lengths_that_others_beat(made_up_report: Report) -> None:
    slow = Latency(99.0, 99.0, 99.0)
    rows = tuple(
        replace(row, latency_ms=slow) if row.macs_mean == 1.3e9 else row
        for row in made_up_report.rows
    )
    macs, milliseconds = report_charts(replace(made_up_report, rows=rows))
    assert [mark.x for mark in macs.front] == [0.8, 1.0, 1.3, 1.7]
    assert [mark.x for mark in milliseconds.front] == [12.0 * gmacs for gmacs in (0.8, 1.0, 1.7)]
    drawn = next(one for one in milliseconds.series if one.key == "front")
    assert [mark.x for mark in drawn.marks][-1] == 99.0


@pytest.mark.parametrize(
    ("costs", "ticks"),
    [((20.0, 400.0), [20, 50, 100, 200, 500]), ((3.0, 30.0), [2, 5, 10, 20, 50])],
)
def test_costs_far_apart_have_round_ticks(costs: tuple[float, float], ticks: list[float]) -> None:
    assert log_ticks(costs) == pytest.approx(ticks)


def test_costs_near_one_another_have_a_linear_axis() -> None:
    assert log_ticks((10.0, 70.0)) == ()


def test_twenty_labels_are_apart() -> None:
    points = np.random.default_rng(0).uniform(0, 250, (20, 2))
    angles = label_angles(points)
    labels = points + LABEL_DISTANCE * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    gaps = np.linalg.norm(labels[:, None] - labels, axis=2) + 1e9 * np.eye(20)
    plain = points + LABEL_DISTANCE * np.sqrt(0.5)  # all of them to the upper right
    plain_gaps = np.linalg.norm(plain[:, None] - plain, axis=2) + 1e9 * np.eye(20)
    assert gaps.min() > max(6.0, plain_gaps.min())


def test_a_tooltip_says_which_heads_and_neurons_run(made_up_report: Report) -> None:
    rows = [
        replace(row, tokens=f"{row.tokens}@6x768", layers="6x768") if row.role == "chosen" else row
        for row in made_up_report.rows
    ]
    points = tuple(replace(one, layers="3x9,-,3x9") for one in made_up_report.candidates[:1])
    series = report_charts(replace(made_up_report, rows=tuple(rows), candidates=points))[0].series
    texts = {one.key: one.marks[0].text for one in series}
    assert texts["chosen"] == "integer, int8: 70, 60, 30, heads x neurons 6x768"
    assert texts["candidates"] == "90, 60, 30, heads x neurons 3x9 without layer 2"
