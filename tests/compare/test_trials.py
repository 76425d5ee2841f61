"""What the store says of a run: settings, seeds, places, and what the training cost."""

from __future__ import annotations

import pytest
from tracked import (
    ADAPT_SECONDS,
    ADAPTED_SCORE,
    ROUNDING,
    SHORTENING,
    TEACHER_SECONDS,
    Filled,
    Tracked,
)

from quala.compare.store import Reports
from quala.compare.trials import Collector, Trial
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.workflow.lease import TAKEOVER


def trials(store: Tracked, run: str) -> dict[str, Trial]:
    """Return a run's trials by kind."""
    reports = Reports.open(store.uri)
    return {trial.kind: trial for trial in Collector(reports).trials(reports.run(run))}


def test_a_recipe_gives_its_model_and_its_teacher(filled: Filled) -> None:
    found = {trial.kind: trial for trial in filled.collected("kdlsq 1")}
    assert set(found) == {"teacher", "full"}
    assert (found["teacher"].system, found["full"].system) == ("fine-tuned", "kdlsq")
    assert (found["teacher"].row.score, found["full"].row.score) == (91.0, 77.0)
    assert found["full"].seeds == (1,)


def test_a_search_gives_chosen_lengths_too(filled: Filled) -> None:
    found = {trial.kind: trial for trial in filled.collected("quala")}
    assert set(found) == {"teacher", "full", "chosen"}
    assert found["chosen"].row.lengths == (8, 4)
    assert found["chosen"].identity != found["full"].identity


def test_the_float_model_is_compared_beside_its_integer_one(
    tracked: Tracked, questions: DataSpec
) -> None:
    run = tracked.run("compound", data=questions)
    reports = Reports.open(tracked.uri)
    found = {
        (trial.kind, trial.row.precision): trial
        for trial in Collector(reports).trials(reports.run(run))
    }
    scores = {key: trial.row.score for key, trial in found.items() if key[0] != "teacher"}
    shorter, rounded = ADAPTED_SCORE - SHORTENING, ADAPTED_SCORE - ROUNDING
    assert scores == {
        ("full", "fp32"): ADAPTED_SCORE,
        ("chosen", "fp32"): shorter,
        ("full", "w8e8a8"): rounded,
        ("chosen", "w8e8a8"): shorter - ROUNDING,
    }
    assert "quantize" not in found["full", "fp32"].setting
    assert len({trial.identity for trial in found.values()}) == len(found)
    assert [row.lengths for row in found["full", "fp32"].front] == [(8, 4)]
    assert [work.stage for work in found["full", "fp32"].costs.other] == []
    assert found["full", "fp32"].costs.total("seconds") == ADAPT_SECONDS


def test_a_setting_has_no_seed_path_or_tracking(filled: Filled) -> None:
    trial = next(one for one in filled.collected("kdlsq sentences") if one.kind == "full")
    assert not [key for key in trial.setting if "seed" in key or "path" in key or "log" in key]
    assert trial.setting["model.teacher"] == "hub-name"
    assert trial.setting["distill.quantizers.weight_bits"] == "2"


def test_what_was_typed_is_known(filled: Filled) -> None:
    trial = next(one for one in filled.collected("kdlsq 4 bits 0") if one.kind == "full")
    assert trial.named == {"distill.quantizers.weight_bits"}


def test_the_training_is_the_sum_without_the_teacher(filled: Filled) -> None:
    xtc = next(one for one in filled.collected("xtc") if one.kind == "full")
    assert [work.stage for work in xtc.costs.training] == ["distill"]
    assert [xtc.costs.total(name) for name in ("steps", "passes", "inputs")] == [40, 40, 320]
    assert xtc.costs.total("seconds") == 20.0
    assert (xtc.teacher.total("steps"), xtc.teacher.total("seconds")) == (10, TEACHER_SECONDS)
    assert not xtc.costs.partial


def test_an_older_sandwich_has_the_passes_of_its_config(filled: Filled) -> None:
    costs = {trial.kind: trial for trial in filled.collected("quala")}["full"].costs
    assert (costs.total("steps"), costs.total("passes")) == (10, 10 * 3)
    assert costs.total("seconds") == ADAPT_SECONDS


def test_a_search_costs_chosen_lengths_only(filled: Filled) -> None:
    quala = {trial.kind: trial for trial in filled.collected("quala")}
    assert [work.stage for work in quala["full"].costs.other] == []
    assert [work.stage for work in quala["chosen"].costs.other] == ["search"]
    assert quala["chosen"].costs.total("seconds") == ADAPT_SECONDS


def test_the_teachers_own_row_counts_its_training(filled: Filled) -> None:
    teacher = next(one for one in filled.collected("xtc") if one.kind == "teacher")
    assert teacher.costs.total("seconds") == TEACHER_SECONDS


def test_several_trainings_are_added_up(tracked: Tracked, questions: DataSpec) -> None:
    run = tracked.run("twice", data=questions, distill={"max_steps": 6})
    costs = trials(tracked, run)["full"].costs
    assert [(work.stage, work.steps) for work in costs.training] == [("distill", 6), ("again", 6)]
    assert costs.total("seconds") == 6 / 2 + 6 / 2
    assert costs.total("inputs") == 2 * 6 * 8


def test_a_cached_teacher_is_part_of_the_price(tracked: Tracked, questions: DataSpec) -> None:
    run = tracked.run("kdlsq", data=questions, distill={"max_steps": 6})
    reports = Reports.open(tracked.uri)
    stage = reports.run(run).data.tags["mlflow.quala.stage.distill"]
    reports.client.log_metric(stage, "cache/seconds", 1.5)
    assert trials(tracked, run)["full"].costs.total("seconds") == 6 / 2 + 1.5


def test_a_given_output_makes_the_training_partial(tracked: Tracked, questions: DataSpec) -> None:
    first = tracked.run("kdlsq", data=questions)
    reports = Reports.open(tracked.uri)
    stage = reports.run(first).data.tags["mlflow.quala.stage.distill"]
    run = tracked.run("kdlsq", data=questions, distill={"given": stage}, measure={"force": True})
    found = trials(tracked, run)
    assert found["full"].costs.missing == ("distill",)
    assert found["full"].costs.partial
    assert found["full"].setting["distill"].startswith("given ")
    assert not found["teacher"].costs.partial


def test_an_older_training_that_was_resumed_is_partial(
    tracked: Tracked, questions: DataSpec
) -> None:
    run = tracked.run("quala_minilm", data=questions)
    reports = Reports.open(tracked.uri)
    tags = reports.run(run).data.tags
    assert not trials(tracked, run)["full"].costs.partial
    for stage in ("length_adapt", "search", "finetune"):
        reports.client.log_param(tags[f"mlflow.quala.stage.{stage}"], f"{TAKEOVER}1", "{}")
    found = trials(tracked, run)
    assert found["full"].costs.partial
    assert found["chosen"].partial("other_seconds")
    # It counted its passes, so it also timed all of its processes.
    assert not found["teacher"].costs.partial


def test_a_measurement_from_outside_cannot_be_compared(
    tracked: Tracked, questions: DataSpec
) -> None:
    first = tracked.run("kdlsq", data=questions)
    stage = Reports.open(tracked.uri).run(first).data.tags["mlflow.quala.stage.measure"]
    run = tracked.run("kdlsq", data=questions, measure={"given": stage}, report={"force": True})
    with pytest.raises(QualaError, match="was given its `measure` from outside"):
        trials(tracked, run)


def test_a_run_that_ends_at_its_measurement_is_compared(
    tracked: Tracked, questions: DataSpec
) -> None:
    short, whole = (tracked.run("kdlsq", data=questions, until=one) for one in ("measure", None))
    assert [one.info.run_id for one in Reports.open(tracked.uri).with_rows()] == [whole, short]
    found = [trials(tracked, run) for run in (short, whole)]
    assert found[0].keys() == found[1].keys() == {"teacher", "full"}
    for one, other in zip(found[0].values(), found[1].values(), strict=True):
        same = ("row", "system", "setting", "seeds", "costs", "teacher", "place", "teacher_ms")
        assert [getattr(one, name) for name in same] == [getattr(other, name) for name in same]


def test_the_place_of_a_latency_is_the_measurements(filled: Filled) -> None:
    from quala.workflow.provenance import hardware

    trial = filled.collected("xtc")[0]
    here = hardware()
    assert (trial.place.runtime, trial.place.threads) == ("onnxruntime", 2)
    assert trial.place.processor == f"{here['cpu']}, {here['cores']} cores"
