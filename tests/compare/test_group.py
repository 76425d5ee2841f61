"""Trials grouped to rows and tables: seeds, settings, data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tracked import BITS, MIB, NOISE, SOFT, STUDENT_SCORE, TEACHER_SCORE, Filled, Tracked

from quala.compare.group import Comparison, Line, Spread, Table, bits_of, data_name
from quala.compare.store import Reports
from quala.compare.trials import Collector
from quala.data.slices import data_fingerprint
from quala.data.spec import DataSpec

VALUES = (80.1, 82.7, 79.9, 81.0)


def test_mean_and_deviation_are_the_samples() -> None:
    spread = Spread(VALUES)
    assert spread.mean == pytest.approx(np.mean(VALUES))
    assert spread.deviation == pytest.approx(np.std(VALUES, ddof=1))
    assert spread.error == spread.deviation


def test_two_values_have_a_range_and_no_deviation() -> None:
    spread = Spread(VALUES[:2])
    assert spread.deviation is None
    assert spread.error == pytest.approx(1.3)


def test_one_value_has_no_spread() -> None:
    spread = Spread(VALUES[:1])
    assert (spread.mean, spread.deviation, spread.error) == (80.1, None, 0.0)


@pytest.mark.parametrize(
    ("count", "text"), [(1, "80.1"), (2, "81.4 (80.1–82.7)"), (4, "80.9 ± 1.3")]
)
def test_a_text_says_as_much_as_is_known(count: int, text: str) -> None:
    assert Spread(VALUES[:count]).text("{:.1f}") == text


def test_unknown_values_do_not_count() -> None:
    assert Spread.of([None, 2.0, None]) == Spread((2.0,))
    assert Spread.of([None]) is None


@pytest.fixture(scope="module")
def table(filled: Filled) -> Table:
    """The table of the questions."""
    tables = {table.data: table for table in filled.compared().tables}
    return tables[data_fingerprint(filled.questions)]


def line(table: Table, system: str, label: str) -> Line:
    """Return the one line of a system with a label."""
    (found,) = (one for one in table.lines if (one.system, one.label) == (system, label))
    return found


def test_a_row_is_a_system_in_a_setting(table: Table) -> None:
    assert [(one.number, one.system, one.label) for one in table.lines] == [
        (1, "fine-tuned", ""),
        (2, "kdlsq", "base"),
        (3, "kdlsq", "soft=hidden=0"),
        (4, "kdlsq", "weight_bits=4"),
        (5, "quala_minilm", "full length"),
        (6, "quala_minilm", "chosen lengths"),
        (7, "xtc", ""),
    ]


def test_seeds_are_one_row_with_their_spread(table: Table) -> None:
    expected = [STUDENT_SCORE + 2 * BITS + SOFT + NOISE[seed] for seed in (0, 1, 2)]
    score = line(table, "kdlsq", "base").score
    assert score.values == tuple(expected)
    assert score.mean == pytest.approx(np.mean(expected))
    assert score.deviation == pytest.approx(np.std(expected, ddof=1))


def test_teachers_are_one_row_over_all_systems(table: Table) -> None:
    teacher = line(table, "fine-tuned", "")
    assert sorted(teacher.score.values) == sorted(TEACHER_SCORE + NOISE[seed] for seed in NOISE)
    assert teacher.bits == "32-32-32"


def test_rows_of_other_data_have_a_table_of_their_own(filled: Filled) -> None:
    tables = {table.data: table for table in filled.compared().tables}
    assert set(tables) == {data_fingerprint(filled.questions), data_fingerprint(filled.sentences)}
    for data, table in tables.items():
        trials = [trial for one in table.lines for trial in one.trials]
        assert {trial.data for trial in trials} == {data}
        assert {trial.row.metric for trial in trials} == {table.metric}
    others = tables[data_fingerprint(filled.sentences)]
    assert others.metric == "accuracy"
    assert [one.label for one in others.lines] == ["", ""]
    assert others.title == "glue, folder sentences sst2"


def test_the_training_of_a_row_is_its_own(table: Table) -> None:
    xtc = line(table, "xtc", "")
    assert xtc.cost(lambda costs: costs.seconds).values == (40 / 2,)
    three = line(table, "kdlsq", "base").cost(lambda costs: costs.steps)
    assert three.values == (10, 10, 10)


def test_a_setting_is_told_in_full(table: Table) -> None:
    hard = line(table, "kdlsq", "soft=hidden=0").differences
    assert hard == (
        "distill.soft=0, distill.hidden=0, distill.quantizers.weight_bits=2, "
        "distill.quantizers.embedding_bits=2"
    )


def test_a_model_that_was_measured_again_is_one_model(
    tracked: Tracked, questions: DataSpec
) -> None:
    tracked.run("kdlsq", data=questions, measure={"milliseconds": 8.0})
    tracked.run("kdlsq", data=questions, measure={"milliseconds": 20.0})
    tracked.run("kdlsq", data=questions, measure={"milliseconds": 4.0, "threads": 1})
    reports = Reports.open(tracked.uri)
    trials = [one for run in reports.finished() for one in Collector(reports).trials(run)]
    (table,) = Comparison.of(trials, {}).tables
    student = line(table, "kdlsq", "")
    assert len(trials) == 6
    assert len(student.trials) == 1
    times = {place.threads: spread.values for place, spread in student.latencies.items()}
    assert times == {2: (20.0,), 1: (4.0,)}
    shares = {place.threads: spread.values for place, spread in student.shares.items()}
    assert shares == {2: (20.0 / 25.0,), 1: (4.0 / 25.0,)}


def test_a_float_model_is_one_whether_integers_were_made_of_it_or_not(
    tracked: Tracked, questions: DataSpec
) -> None:
    for weight_bits in (8, 4):
        word = f"stage.quantize.weight_bits={weight_bits}"
        tracked.run("compound", word, data=questions, quantize={"weight_bits": weight_bits})
    off = {"enabled": False}
    tracked.run("compound", "stage.quantize.enabled=false", data=questions, quantize=off)
    reports = Reports.open(tracked.uri)
    trials = [one for run in reports.finished() for one in Collector(reports).trials(run)]
    (table,) = Comparison.of(trials, {}).tables
    bits = {one.label: one.bits for one in table.lines if one.system == "compound"}
    assert bits == {
        "weight_bits=off, full length": "32-32-32",
        "weight_bits=4, full length": "4-4-8",
        "weight_bits=8, full length": "8-8-8",
        # Three searches found the lengths, two of them with integers in sight.
        "weight_bits=off, chosen lengths": "32-32-32",
        "base, chosen lengths": "32-32-32",
        "precision=w8e8a8, chosen lengths": "8-8-8",
        "weight_bits=4, chosen lengths": "32-32-32",
        "weight_bits=4, precision=w4e4a8, chosen lengths": "4-4-8",
    }
    (unrounded,) = (one for one in table.lines if one.label == "weight_bits=off, full length")
    assert len(unrounded.trials) == 1


def test_scores_of_two_runtimes_are_two_rows(tracked: Tracked, questions: DataSpec) -> None:
    for runtime in ("onnxruntime", "openvino"):
        tracked.run("kdlsq", data=questions, measure={"runtime": runtime})
    reports = Reports.open(tracked.uri)
    trials = [one for run in reports.finished() for one in Collector(reports).trials(run)]
    (table,) = Comparison.of(trials, {}).tables
    labels = [one.label for one in table.lines if one.system == "kdlsq"]
    assert labels == ["runtime=onnxruntime", "runtime=openvino"]


def test_data_of_one_name_are_told_apart(tracked: Tracked, questions: DataSpec) -> None:
    for spec in (questions, replace(questions, max_train=100)):
        tracked.run("kdlsq", data=spec)
    reports = Reports.open(tracked.uri)
    trials = [one for run in reports.finished() for one in Collector(reports).trials(run)]
    titles = {table.title for table in Comparison.of(trials, {}).tables}
    assert titles == {
        "squad, folder questions, max_train=off", "squad, folder questions, max_train=100"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "bits"),
    [("fp32", "32-32-32"), ("int8", "8-?-8"), ("w2-4e32a8", "2/4-32-8"), ("w1e1a8", "1-1-8")],
)
def test_an_older_row_has_the_bits_of_its_precision(
    table: Table, precision: str, bits: str
) -> None:
    row = replace(table.lines[1].trials[0].row, precision=precision, bits=None)
    assert bits_of(row) == bits


def test_sizes_are_those_of_the_files(table: Table) -> None:
    size = line(table, "kdlsq", "weight_bits=4").spread(lambda row: row.size_bytes)
    assert size is not None
    assert size.values == (40 * MIB, 40 * MIB)


def test_data_whose_format_is_not_installed_are_named_by_it() -> None:
    assert data_name({"task": "not_installed.Format", "subset": None}) == "not_installed.Format"
