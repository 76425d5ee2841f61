"""Figures: everything that belongs to a chart is inside its picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quala.report.charts import Chart, report_charts
from quala.report.figure import draw_charts
from quala.results import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@pytest.fixture
def chart(made_up_report: Report) -> Chart:
    """Score against MACs, with all series."""
    return report_charts(made_up_report)[0]


def drawn(charts: list[Chart], monkeypatch: pytest.MonkeyPatch) -> Figure:
    """Return the figure instead of writing it."""
    saved: list[Figure] = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, _: saved.append(figure))
    draw_charts(charts, Path("front.png"))
    (figure,) = saved
    return figure


@pytest.mark.parametrize("count", [1, 2])
def test_one_legend_fits_the_width(
    chart: Chart, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    figure = drawn([chart] * count, monkeypatch)
    (legend,) = figure.legends
    assert len(legend.get_texts()) == len(chart.series)
    assert legend.get_window_extent().width <= figure.bbox.width


def test_a_long_title_is_wrapped(chart: Chart, monkeypatch: pytest.MonkeyPatch) -> None:
    titled = replace(chart, cost="Median latency (onnxruntime, 2 threads, " + "processor " * 12)
    figure = drawn([titled, titled], monkeypatch)
    label = figure.axes[0].xaxis.label
    assert label.get_text().count("\n") > 0
    assert label.get_window_extent().width <= figure.bbox.width / 2


def test_very_low_candidates_do_not_press_the_front_flat(
    chart: Chart, monkeypatch: pytest.MonkeyPatch
) -> None:
    low = [replace(mark, y=0.0) for mark in chart.series[0].marks]
    series = (replace(chart.series[0], marks=tuple(low)), *chart.series[1:])
    figure = drawn([replace(chart, series=series)], monkeypatch)
    assert figure.axes[0].get_ylim()[0] == chart.lowest
