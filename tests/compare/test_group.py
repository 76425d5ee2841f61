"""Trials grouped to rows and tables: seeds, settings and their labels, data."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from tracked import (
    BITS,
    EXAMPLES,
    HALF,
    MIB,
    NOISE,
    SOFT,
    STUDENT_SCORE,
    TEACHER_SCORE,
    Filled,
    Tracked,
)

from quala.compare.group import (
    Comparison,
    Line,
    Spread,
    Table,
    all_differences,
    bits_of,
    differing,
    labels,
    natural_order,
)
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
    assert others.title == "glue, sentences sst2"


def test_the_training_of_a_row_is_its_own(table: Table) -> None:
    xtc = line(table, "xtc", "")
    assert xtc.spread("train_seconds") == Spread((40 / 2,))
    assert line(table, "kdlsq", "base").spread("train_steps") == Spread((10.0, 10.0, 10.0))


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
        "squad, SQuAD 1.1, max_train=off", "squad, SQuAD 1.1, max_train=100"
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
    size = line(table, "kdlsq", "weight_bits=4").spread("size_bytes")
    assert size is not None
    assert size.values == (40 * MIB, 40 * MIB)


WIDTH, EMBEDDINGS = "distill.quantizers.weight_bits", "distill.quantizers.embedding_bits"
PLAIN = {"finetune.epochs": "2", "distill.soft": "1", "distill.hidden": "1", WIDTH: "2",
        EMBEDDINGS: "2"}  # fmt: skip
FOUR = {**PLAIN, WIDTH: "4", EMBEDDINGS: "4"}
HARD = {**PLAIN, "distill.soft": "0", "distill.hidden": "0"}


def test_one_option_that_differs_is_the_label() -> None:
    assert labels([PLAIN, FOUR]) == ["weight_bits=2", "weight_bits=4"]


def test_what_most_have_is_left_out_where_several_options_differ() -> None:
    assert labels([PLAIN, FOUR, HARD]) == ["base", "weight_bits=4", "soft=0"]


def test_what_a_person_named_is_told() -> None:
    assert labels([PLAIN, FOUR, HARD], {"distill.hidden", "distill.soft"}) == [
        "base", "weight_bits=4", "soft=hidden=0",
    ]  # fmt: skip


def test_one_setting_needs_no_label() -> None:
    assert labels([PLAIN]) == [""]


def test_options_of_two_stages_keep_the_stage() -> None:
    found = labels([
        {"distill.steps": "1", "refine.steps": "1"},
        {"distill.steps": "2", "refine.steps": "1"},
        {"distill.steps": "1", "refine.steps": "2"},
    ])  # fmt: skip
    assert found == ["base", "distill.steps=2", "refine.steps=2"]


def test_an_option_of_a_stage_used_twice_is_told_once() -> None:
    settings = [
        {"step_1.shrink.ratio": ratio, "step_2.shrink.ratio": ratio} for ratio in ("5", "10")
    ]
    named = set(settings[0])
    assert labels(settings, named) == ["ratio=5", "ratio=10"]
    once = [{"step_1.shrink.ratio": "2"}, *settings]
    assert labels(once, named) == ["ratio=2", "ratio=5", "ratio=10"]


def test_an_option_that_differs_between_two_uses_is_told_twice() -> None:
    settings = [{"step_1.rate": "1", "step_2.rate": rate} for rate in ("1", "3")]
    settings.append({"step_1.rate": "2", "step_2.rate": "1"})
    found = labels(settings, {"step_1.rate", "step_2.rate"})
    assert found == ["base", "step_2.rate=3", "step_1.rate=2"]


def test_an_option_that_is_null_is_off() -> None:
    assert labels([{"a.x": "1"}, {}]) == ["x=1", "x=off"]


def test_labels_are_as_different_as_settings() -> None:
    values = itertools.product("12", "12", "123")
    settings = [{"a.x": x, "a.y": y, "b.z": z} for x, y, z in values]
    assert len(set(labels(settings))) == len(settings)
    assert len(set(labels(settings, {"b.z"}))) == len(settings)


def test_differing_options_keep_their_order() -> None:
    assert differing([PLAIN, FOUR, HARD]) == ["distill.soft", "distill.hidden", WIDTH, EMBEDDINGS]


@pytest.mark.parametrize(("setting", "bits"), [(0, "2"), (1, "4")])
def test_all_differences_are_told_in_full(setting: int, bits: str) -> None:
    assert all_differences([PLAIN, FOUR])[setting] == f"{WIDTH}={bits}, {EMBEDDINGS}={bits}"


def test_labels_sort_with_the_base_first_and_numbers_by_value() -> None:
    expected = ["base", "ratio=2.5", "ratio=5", "ratio=10", "ratio=10, svd_share=0", "soft=0"]
    mixed = [expected[place] for place in (3, 5, 0, 2, 4, 1)]
    assert sorted(mixed, key=natural_order) == expected


def test_data_without_a_title_are_called_by_their_place(filled: Filled) -> None:
    titles = {one.metric: one.title for one in filled.compared().tables}
    assert titles == {"f1": "squad, SQuAD 1.1", "accuracy": "glue, sentences sst2"}


def test_a_paper_has_no_row_beside_other_data(filled: Filled) -> None:
    trials = filled.collected("quala")
    (own,) = Comparison.of([replace(one, data_title="my questions") for one in trials], {}).tables
    assert {line.claim for line in own.lines} == {None}
    found = Comparison.of(trials, {})
    assert any(line.claim for table in found.tables for line in table.lines)
    assert {claim.data for claim in found.claims} == {"SQuAD 1.1"}


def test_the_interval_is_the_mean_over_the_seeds(filled: Filled) -> None:
    (table,) = filled.compared("kdlsq 0", "kdlsq 1").tables
    base = table.lines[-1]
    assert base.interval == pytest.approx((base.score.mean - HALF, base.score.mean + HALF))
    assert base.exact_match_interval == (50.0, 60.0)
    assert table.examples == EXAMPLES
    older = replace(base.trials[0], row=replace(base.trials[0].row, interval=None, examples=None))
    assert replace(base, trials=(older, *base.trials[1:])).interval is None


def test_a_full_length_that_was_chosen_is_one_line(table: Table) -> None:
    trials = [trial for line in table.lines for trial in line.trials]
    full = {(trial.run, trial.row.model): trial.row for trial in trials if trial.kind == "full"}
    chosen = [
        replace(trial, row=full[trial.run, trial.row.model]) if trial.kind == "chosen" else trial
        for trial in trials
        if trial.system == "quala_minilm"
    ]
    (merged,) = Comparison.of(chosen, {}).tables
    labels = [line.label for line in merged.lines]
    assert len(labels) == len([trial for trial in chosen if trial.kind == "full"])
    assert all(label.endswith("full length, also chosen") for label in labels)
    shorter = [trial for trial in trials if trial.system == "quala_minilm"]
    (apart,) = Comparison.of(shorter, {}).tables
    assert len(apart.lines) == 2 * len(merged.lines)
    assert not any("also chosen" in line.label for line in apart.lines)
