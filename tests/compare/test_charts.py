"""What the charts show, and where the numbers stand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tracked import Filled

from quala.compare.charts import DISTANCE, Chart, Mark, Series, charts, free_angles, styles
from quala.compare.group import Table


@pytest.fixture(scope="module")
def table(filled: Filled) -> Table:
    """The table of the questions."""
    return next(one for one in filled.compared().tables if one.metric == "f1")


def dominated(mark: Mark, others: list[Mark]) -> bool:
    """Say whether another mark is at least as good in both and better in one."""
    return any(
        other.x <= mark.x and other.y >= mark.y and (other.x, other.y) != (mark.x, mark.y)
        for other in others
    )


def test_the_front_is_drawn_over_all_systems(table: Table) -> None:
    for chart in charts(table):
        marks = [mark for one in chart.series for mark in one.marks]
        expected = {(mark.x, mark.y) for mark in marks if not dominated(mark, marks)}
        assert {(mark.x, mark.y) for mark in chart.front} == expected


def test_every_line_is_a_mark_with_its_spread(table: Table) -> None:
    size, latency = charts(table)
    assert size.cost == "Size, MiB"
    assert "onnxruntime, 2 threads" in latency.cost
    marks = {mark.number: mark for one in size.series for mark in one.marks}
    assert sorted(marks) == [one.number for one in table.lines]
    assert marks[2].error == pytest.approx(np.std([76.0, 77.0, 75.6], ddof=1))
    assert marks[4].error == pytest.approx(0.5)


def test_a_length_adaptive_system_shows_its_other_lengths(table: Table) -> None:
    latency = charts(table)[1]
    others = {one.system: one.others for one in latency.series}
    assert others["quala_minilm"] == ((10.0 / 25.0, 84.0),)
    assert others["kdlsq"] == ()


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
    assert 2 not in [mark.number for one in latency.series for mark in one.marks]


def test_latencies_are_shares_of_one_teachers(table: Table) -> None:
    latency = charts(table)[1]
    marks = {mark.number: mark.x for one in latency.series for mark in one.marks}
    assert latency.cost.startswith("Median latency as a share of the teacher's")
    assert (marks[1], marks[2]) == pytest.approx((1.0, 10.0 / 25.0))


def test_with_two_teachers_or_a_row_without_one_latencies_are_milliseconds(table: Table) -> None:
    teacher, first, *others = table.lines
    for lines in (
        (teacher, teacher, first, *others),
        (teacher, replace(first, shares={}), *others),
    ):
        latency = charts(replace(table, lines=lines))[1]
        marks = {mark.number: mark.x for one in latency.series for mark in one.marks}
        assert "per input, ms" in latency.cost
        assert (marks[1], marks[2]) == (25.0, 10.0)


@pytest.mark.parametrize(
    ("costs", "ticks"),
    [((20.0, 400.0), [20, 50, 100, 200, 500]), ((3.0, 30.0), [2, 5, 10, 20, 50])],
)
def test_costs_far_apart_have_round_ticks(costs: tuple[float, float], ticks: list[float]) -> None:
    marks = tuple(Mark(1, cost, 80.0, 0.0, "") for cost in costs)
    chart = Chart("Size", (Series("xtc", marks, ()),), marks)
    assert chart.logarithmic
    assert chart.ticks == pytest.approx(ticks)


def test_costs_near_one_another_stand_on_a_plain_axis() -> None:
    marks = (Mark(1, 10.0, 80.0, 0.0, ""), Mark(2, 70.0, 80.0, 0.0, ""))
    assert not Chart("Size", (Series("xtc", marks, ()),), marks).logarithmic


def test_twenty_numbers_are_apart() -> None:
    points = np.random.default_rng(0).uniform(0, 250, (20, 2))
    angles = free_angles(points)
    numbers = points + DISTANCE * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    gaps = np.linalg.norm(numbers[:, None] - numbers, axis=2) + 1e9 * np.eye(20)
    plain = points + DISTANCE * np.sqrt(0.5)  # all of them to the upper right
    plain_gaps = np.linalg.norm(plain[:, None] - plain, axis=2) + 1e9 * np.eye(20)
    assert gaps.min() > max(6.0, plain_gaps.min())


def test_systems_differ_in_color_and_marker() -> None:
    names = [f"system {number}" for number in range(9)]
    found = styles([*names, "fine-tuned"])
    assert len({style.color for style in found.values()}) == 10
    assert len({style.marker for style in found.values()}) == 10
    assert len({style.symbol for style in found.values()}) == 10
