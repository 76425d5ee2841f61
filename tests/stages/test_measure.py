"""The rows that a report is made of."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from quala.checkpoint import load_with_data, predict, score_slice
from quala.cost import macs, parameters, part_of
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.lengths import LengthConfig, Units
from quala.results import Latency, Row, predictions_file
from quala.runtime.engine import GraphEngine, TorchEngine
from quala.search.result import RESULT, SearchCandidate, SearchResult, read_result
from quala.stages import finetune, measure
from quala.stages import measure as scores
from quala.stages.export import measured_front
from quala.stages.measure import random_model
from quala.workflow import StageContext

Run = Callable[..., list[Row]]


@pytest.fixture
def inputs(
    tiny_checkpoint: Path, supernet: Path, integer: Path, found: Path, spec: DataSpec
) -> dict[str, Any]:
    return {"data": spec, "baseline": tiny_checkpoint, "supernet": supernet, "model": integer,
            "search": found}  # fmt: skip


@pytest.fixture
def run(configure: Any, inputs: dict[str, Any], tmp_path: Path) -> Run:
    def done(**changes: Any) -> list[Row]:
        context = StageContext.alone("measure", tmp_path)
        figures = measure.run(configure("measure", **changes), context, inputs)
        rows = measure.read_rows(context.output)
        assert figures["test/rows"] == len(rows)
        return rows

    return done


def test_rows_say_what_they_are_there_for(run: Run) -> None:
    rows = run()
    assert [(row.model, row.role, row.precision) for row in rows] == [
        ("fine-tuned", "baseline", "fp32"),
        ("supernet", "full", "fp32"),
        ("supernet", "supernet", "fp32"),
        ("quala", "full", "int8"),
        ("quala", "chosen", "int8"),
        ("quala", "front", "int8"),
    ]
    assert [row.lengths for row in rows] == [None, None, (96, 64), None, (96, 64), (64, 32)]
    costs = [row.macs_mean for row in rows[3:]]
    assert costs == sorted(costs, reverse=True)
    assert rows[3].size_bytes < rows[1].size_bytes / 2


def test_the_rows_come_with_a_summary_of_the_data(
    run: Run, inputs: dict[str, Any], tmp_path: Path
) -> None:
    run()
    found = json.loads((tmp_path / "output/data.json").read_text())
    data = load_with_data(inputs["model"], inputs["data"]).data
    assert found["slices"] == {
        name: len(getattr(data, name).examples)
        for name in ("train", "search", "selection", "test")
    }
    assert found["files"]["test"] == ["demo validation"]


@pytest.mark.parametrize(
    ("asked", "lengths"),
    [("full", [None]), ("chosen", [None, (96, 64)]), ("front", [None, (96, 64), (64, 32)])],
)
def test_the_float_model_is_measured_at_as_many_lengths_as_asked(
    run: Run, asked: str, lengths: list[tuple[int, ...] | None]
) -> None:
    rows = run(supernet=asked)
    assert [row.lengths for row in rows if row.model == "supernet"] == lengths


def test_rows_say_how_many_weights_of_which_width_there_are(
    run: Run, inputs: dict[str, Any]
) -> None:
    rows = run()
    opened = load_with_data(inputs["baseline"], inputs["data"]).model
    counted = sum(weight.numel() for weight in opened.hf.parameters())
    assert counted == parameters(opened.arch)
    assert {row.parameters for row in rows} == {counted}
    assert [row.bits for row in rows] == [*["32-32-32"] * 3, *["8-8-8"] * 3]
    assert all(0 < (row.nonzero or 0) <= counted for row in rows)


def test_the_loss_allowed_decides_the_choice(run: Run) -> None:
    chosen = [row.lengths for row in run(max_loss=20.0) if row.role == "chosen"]
    assert chosen == [(64, 32)]


def test_a_slice_that_is_sure_of_nothing_chooses_the_full_length(
    configure: Any, inputs: dict[str, Any], tmp_path: Path
) -> None:
    found = read_result(inputs["search"])
    points = [
        replace(point, score=51.0 if any(point.lengths.drops) else 50.0, error=3.0)
        for point in found.candidates
    ]
    folder = tmp_path / "unsure"
    folder.mkdir()
    text = replace(found, candidates=tuple(points)).to_json()
    (folder / RESULT).write_text(text, encoding="utf-8")
    chosen, notes = {}, {}
    for certainty in (0.5, 0.95):
        context = StageContext.alone("measure", tmp_path / str(certainty))
        config = configure("measure", certainty=certainty)
        measure.run(config, context, {**inputs, "search": folder})
        rows = measure.read_rows(context.output)
        (chosen[certainty],) = (row.lengths for row in rows if row.role == "chosen")
        notes[certainty] = next(row.note for row in rows if row.role == "chosen")
        assert len({(row.model, row.lengths) for row in rows}) == len(rows)
    assert chosen == {0.5: (64, 32), 0.95: None}
    assert notes[0.5] is None
    assert notes[0.95] == (
        "The full length was chosen: no shorter lengths stay within 1 point of it on the 12 "
        "examples of the search slice at 95 % certainty."
    )


def test_a_search_of_another_length_is_refused(
    configure: Any, inputs: dict[str, Any], tmp_path: Path
) -> None:
    shorter = {**inputs, "data": replace(inputs["data"], max_length=96)}
    context = StageContext.alone("measure", tmp_path)
    with pytest.raises(QualaError, match=r"data\.max_length=128, got 2 and 96"):
        measure.run(configure("measure"), context, shorter)


@pytest.mark.parametrize("certainty", [0.4, 1.0])
def test_certainty_is_a_share(configure: Any, certainty: float) -> None:
    with pytest.raises(QualaError, match=r"`certainty` must be at least 0\.5 and below 1"):
        configure("measure", certainty=certainty)


def test_the_chosen_point_is_measured_in_any_case(run: Run) -> None:
    assert [row.lengths for row in run(front_points=1) if row.role == "chosen"] == [(96, 64)]


def test_scores_are_those_of_the_test_set(run: Run, inputs: dict[str, Any]) -> None:
    folders = {"fine-tuned": "baseline", "supernet": "supernet", "quala": "model"}
    for row in run():
        opened = load_with_data(inputs[folders[row.model]], inputs["data"])
        lengths = LengthConfig(row.lengths, 128) if row.lengths else None
        found = score_slice(opened, opened.data.test, batch_size=3, lengths=lengths)
        assert row.score == pytest.approx(found["f1"])
        assert row.exact_match == pytest.approx(found["exact_match"])


def test_a_served_model_is_scored_as_it_is_served(
    run: Run, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[int, LengthConfig | None]] = []
    logits = GraphEngine.logits

    def counted(engine: GraphEngine, inputs: Any, lengths: LengthConfig | None) -> Any:
        ran.append((len(inputs["input_ids"]), lengths))
        assert bool(inputs["attention_mask"].all())  # nothing was padded
        return logits(engine, inputs, lengths)

    monkeypatch.setattr(GraphEngine, "logits", counted)
    rows = run(runtime="onnxruntime", latency_inputs=1, warmup=0)
    test = load_with_data(inputs["model"], inputs["data"]).data.test
    counts = Counter(lengths for _, lengths in ran)
    features = Counter[LengthConfig | None]()
    for count, lengths in ran:
        features[lengths] += count
    timed = 2  # one input a row, and once more to see how steady the machine is
    assert features == {
        None: 3 * (len(test.features) + timed),
        LengthConfig((96, 64), 128): 2 * (len(test.features) + timed),
        LengthConfig((64, 32), 128): len(test.features) + timed,
    }
    assert max(counts.values()) < len(test.features) * 3  # several at once
    for row in rows[:2]:  # float models: the same scores as PyTorch
        key = {"fine-tuned": "baseline", "supernet": "supernet"}[row.model]
        found = score_slice(load_with_data(inputs[key], inputs["data"]), test, batch_size=3)
        assert row.score == pytest.approx(found["f1"])


def test_a_kill_loses_no_finished_score(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[str] = []
    outputs = scores._outputs

    def counted(measured: Any, *rest: Any) -> Any:
        scored.append(measured.name)
        return outputs(measured, *rest)

    def killed(measured: Any, *rest: Any) -> Any:
        if measured.name == "quala":
            raise KeyboardInterrupt
        return counted(measured, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(scores, "_outputs", killed)
        with pytest.raises(KeyboardInterrupt):
            run()
    monkeypatch.setattr(scores, "_outputs", counted)
    rows = run()
    assert scored == ["fine-tuned", "supernet", "quala"]
    assert all(row.score is not None for row in rows)


def test_a_reference_is_timed_and_not_scored(run: Run) -> None:
    first, second, *_ = run(reference="tinybert-l4-h312")
    assert first.model == "tinybert-l4-h312, random weights"
    assert (first.role, first.score, first.precision) == ("baseline", None, "fp32")
    assert first.latency_ms is not None
    assert (second.model, second.role) == ("fine-tuned", "full")


def test_every_row_has_its_latency(run: Run) -> None:
    for row in run():
        assert row.latency_ms is not None
        assert 0 < row.latency_ms.median <= row.latency_ms.p90 <= row.latency_ms.p99


def test_a_random_reference_leaves_the_random_numbers_alone(spec: DataSpec) -> None:
    import torch

    from quala.data.task import Classes

    before = torch.get_rng_state()
    model = random_model("tinybert-l4-h312", Classes(3))
    assert torch.equal(before, torch.get_rng_state())
    assert (model.arch.hidden, model.arch.layers, model.arch.outputs) == (312, 4, 3)


@pytest.mark.parametrize("loss", [0.1, 20.0])
def test_no_more_points_than_asked_for(run: Run, loss: float) -> None:
    rows = [row for row in run(front_points=1, max_loss=loss) if row.role != "full"]
    assert [row.role for row in rows if row.model == "quala"] == ["chosen"]


def test_without_search_and_supernet_there_are_two_rows(
    configure: Any, inputs: dict[str, Any], tmp_path: Path
) -> None:
    given = {key: inputs[key] for key in ("data", "baseline", "model")}
    context = StageContext.alone("measure", tmp_path)
    figures = measure.run(configure("measure", name="mine"), context, given)
    rows = measure.read_rows(context.output)
    assert [(row.model, row.role, row.precision, row.lengths) for row in rows] == [
        ("fine-tuned", "baseline", "fp32", None), ("mine", "full", "int8", None),
    ]  # fmt: skip
    assert figures["test/mine_full_f1"] == rows[1].score


def test_a_search_without_a_supernet_has_its_front(
    configure: Any, inputs: dict[str, Any], tmp_path: Path
) -> None:
    given = {key: value for key, value in inputs.items() if key != "supernet"}
    context = StageContext.alone("measure", tmp_path)
    measure.run(configure("measure"), context, given)
    roles = [row.role for row in measure.read_rows(context.output)]
    assert roles == ["baseline", "full", "chosen", "front"]


def test_scores_have_their_examples_and_intervals(run: Run, inputs: dict[str, Any]) -> None:
    rows = run(reference="tinybert-l4-h312")
    reference, *scored = rows
    assert (reference.examples, reference.interval) == (None, None)
    for row in scored:
        assert row.examples == 8
        assert row.score is not None
        assert row.exact_match is not None
        assert row.interval is not None
        assert row.exact_match_interval is not None
        assert row.interval[0] <= row.score <= row.interval[1]
        assert row.exact_match_interval[0] <= row.exact_match <= row.exact_match_interval[1]
        assert row.exact_match_interval[1] - row.exact_match_interval[0] > 30  # of 8 examples
        assert (row.loss_interval is None) == (row.lengths is None)


def test_the_loss_is_against_the_same_models_full_length(run: Run) -> None:
    rows = run()
    for row in rows:
        if row.loss_interval is not None:
            full = next(one for one in rows if one.model == row.model and one.lengths is None)
            loss = (full.score or 0) - (row.score or 0)
            assert row.loss_interval[0] < loss < row.loss_interval[1]


def test_a_full_length_that_is_chosen_has_one_row_with_both_figures(
    configure: Any, inputs: dict[str, Any], tmp_path: Path
) -> None:
    context = StageContext.alone("measure", tmp_path)
    figures = measure.run(configure("measure", max_loss=0.0, supernet="front"), context, inputs)
    rows = measure.read_rows(context.output)
    assert [(row.model, row.role, row.lengths) for row in rows] == [
        ("fine-tuned", "baseline", None),
        ("supernet", "full", None),
        ("supernet", "supernet", (96, 64)),
        ("supernet", "supernet", (64, 32)),
        ("quala", "chosen", None),
        ("quala", "front", (96, 64)),
        ("quala", "front", (64, 32)),
    ]
    assert figures["test/quala_full_f1"] == figures["test/quala_chosen_f1"] == rows[4].score


def test_lengths_that_keep_the_same_tokens_are_one_point() -> None:
    lengths = [(64, 31), (64, 32), (96, 64), (127, 126), (128, 128)]
    points = [LengthConfig(each, 128) for each in lengths]
    candidates = tuple(
        SearchCandidate(point, 1.0 + number, 10.0 * number, 0, "seed", 12)
        for number, point in enumerate(points)
    )
    found = SearchResult(candidates, cheapest=1.0, dearest=6.0)
    config: Any = SimpleNamespace(front_points=8)

    def kept(one: LengthConfig) -> tuple[tuple[int, ...], ...]:
        return (one.kept(20), one.kept(30))  # short inputs

    assert kept(points[3]) == kept(points[4]) != kept(points[2])
    assert kept(points[0]) == kept(points[1])
    for chosen in points[:2]:
        assert measure._front(config, found, chosen, kept) == {
            points[2]: "front", chosen: "chosen"
        }  # fmt: skip
    assert set(measure._front(config, found, None, kept).values()) == {"front"}


def test_the_data_are_called_by_their_name(run: Run, tmp_path: Path) -> None:
    run()
    assert measure.read_data(tmp_path / "output")["title"] == "demo"
    assert measure.read_data(tmp_path) == {}


def test_a_classifier_has_an_interval_too(
    configure: Any, tiny_checkpoint: Path, sentences: DataSpec, tmp_path: Path
) -> None:
    taught = StageContext.alone("finetune", tmp_path / "taught")
    given = {"data": sentences, "model": tiny_checkpoint}
    finetune.run(configure("finetune", max_steps=1), taught, given)
    context = StageContext.alone("measure", tmp_path)
    inputs = {"data": replace(sentences, title="Words"), "model": taught.output}
    measure.run(configure("measure"), context, inputs)
    (row,) = measure.read_rows(context.output)
    assert row.examples == 16
    assert row.interval is not None
    assert row.interval[0] <= (row.score or 0) <= row.interval[1]
    assert measure.read_data(context.output)["title"] == "Words"


HALF = (Units(1, 32), Units(1, 32))
POINTS: measure.Points = {
    None: "full",
    LengthConfig((96, 64), 128): "front",
    LengthConfig((96, 64), 128, HALF): "chosen",
    LengthConfig((128, 128), 128, (Units(1, 32), None)): "front",
}


def test_sub_networks_are_measured_by_themselves(
    tiny_checkpoint: Path, spec: DataSpec, tmp_path: Path
) -> None:
    opened = load_with_data(tiny_checkpoint, spec)
    size = (tiny_checkpoint / "model.safetensors").stat().st_size
    model = measure.MeasuredModel("m", opened, POINTS, size)
    done: list[int] = []
    progress: Any = SimpleNamespace(advance=done.append)
    scores = measure.Scores(tmp_path)
    features, arch = opened.data.test.features, opened.model.arch
    found = measure._outputs(model, TorchEngine(opened.model), 4, progress)
    assert sum(done) == len(POINTS) * len(features)
    for point, logits in zip(POINTS, found, strict=True):
        own = predict(opened.model, features, batch_size=4, pad_to=opened.pad_to, lengths=point)
        for one, other in zip(logits, own, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    scores.add(model, TorchEngine(opened.model), batch_size=4, progress=progress)
    latency = {model.row_name(point): Latency(1.0, 2.0, 3.0) for point in POINTS}
    rows = measure._rows(model, scores, latency)
    assert [row.tokens for row in rows] == ["full", "96,64", "96,64@1x32", "full@1x32,-"]
    assert [row.layers for row in rows] == ["", "", "1x32", "1x32,-"]
    assert all(row.score is not None for row in rows)
    for row, point in zip(rows, POINTS, strict=True):
        part = part_of(arch, point.layers if point else ())
        assert row.parameters == parameters(part)
        assert row.size_bytes == size - 4 * (parameters(arch) - parameters(part))
        lengths = point.extracted.lengths if point else (128, 128)
        assert row.macs_padded == macs(part, lengths, 128)
        assert (scores.predictions / predictions_file("m", row.tokens)).is_file()
    written = json.dumps([row.to_json() for row in rows])
    (tmp_path / measure.ROWS).write_text(written, encoding="utf-8")
    with pytest.raises(QualaError, match="of another model"):  # it was not trained for these
        measured_front(opened, tmp_path)
    opened.model.hf.config.quala_elastic = ["", "1x32", "1x32,-"]
    front = measured_front(opened, tmp_path)
    assert {point.lengths for point in front[1:]} == {point for point in POINTS if point}
    damaged = written.replace("1x32,-", "-,1x16")
    (tmp_path / measure.ROWS).write_text(damaged, encoding="utf-8")
    with pytest.raises(QualaError, match="of another model"):
        measured_front(opened, tmp_path)


def test_layers_that_are_left_out_are_not_the_full_length() -> None:
    half, full = (LengthConfig((128, 128), 128, layers) for layers in (HALF, ()))
    candidates = (
        SearchCandidate(full, 4.0, 50.0, 0, "seed", 12),
        SearchCandidate(half, 2.0, 49.5, 0, "seed", 12),
    )
    found = SearchResult(candidates, cheapest=1.0, dearest=4.0)
    features = SimpleNamespace(lengths=np.array([20, 30]))
    data = SimpleNamespace(test=SimpleNamespace(features=features))
    opened: Any = SimpleNamespace(data=data, pad_to=None)
    config: Any = SimpleNamespace(front_points=8, max_loss=1.0, certainty=0.5)
    assert measure._choice(config, found, opened) == (half, None)
    assert measure._front(config, found, half, measure._kept_by(opened)) == {half: "chosen"}
    config.max_loss = 0.1
    chosen, note = measure._choice(config, found, opened)
    assert chosen is None
    assert note is not None
    assert "no shorter lengths or smaller layers stay within 0.1 points" in note
