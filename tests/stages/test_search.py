"""The search stage: what it leaves, what it records, and that it survives a kill."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage

from quala.checkpoint import load_with_data, score_slice
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.lengths import LengthConfig
from quala.search.result import read_result
from quala.search.storage import read_study
from quala.stages import search
from quala.workflow import StageContext


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def surroundings(folder: Path, recorder: Any) -> StageContext:
    alone = StageContext.alone("search", folder)
    return dataclasses.replace(alone, recorder=recorder)


def test_a_search_leaves_its_result_study_and_figure(
    integer: Path, configure: Any, spec: DataSpec, tmp_path: Path, recording: Any
) -> None:
    recorder = recording()
    context = surroundings(tmp_path, recorder)
    figures = search.run(configure("search"), context, {"data": spec, "model": integer})
    assert (context.output / "history.png").stat().st_size > 0
    assert any((context.output / "study").iterdir())
    result = read_result(context.output)
    assert figures["search/candidates"] == len(result.candidates) == 10
    assert figures["search/front_points"] == len(result.front) >= 1
    # every candidate has a run of its own
    assert [item.name for item in recorder.found] == [
        str(item.lengths) for item in result.candidates
    ]
    assert len({item.name for item in recorder.found}) == 10
    first, run = result.candidates[0], recorder.found[0]
    assert run.metrics == {"f1": first.score, "gmacs": first.cost, "examples": first.examples}
    assert run.tags["origin"] == first.origin


def test_scores_and_costs_are_those_of_the_model(
    integer: Path, configure: Any, spec: DataSpec, tmp_path: Path
) -> None:
    config = configure("search", patience=None)
    context = StageContext.alone("search", tmp_path)
    search.run(config, context, {"data": spec, "model": integer})
    opened = load_with_data(integer, spec)
    for item in read_result(context.output).candidates[:4]:
        score = score_slice(opened, opened.data.search, batch_size=8, lengths=item.lengths)
        assert item.score == pytest.approx(score["f1"])
        assert item.cost == pytest.approx(search.macs_cost(opened, item.lengths))
        assert not any(length % 16 for length in item.lengths.lengths)


def kill_at_candidate(patched: pytest.MonkeyPatch, number: int) -> None:
    """Interrupt a search when it has so many candidates."""
    seen = iter(range(1, number))

    def advance(*_: Any) -> None:
        if next(seen, None) is None:
            raise KeyboardInterrupt

    patched.setattr("quala.stage._Lines.advance", advance)


@pytest.mark.parametrize("kill_at", [2, 7])
def test_a_killed_search_ends_with_the_same_result(
    integer: Path,
    configure: Any,
    spec: DataSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill_at: int,
) -> None:
    config, inputs = configure("search"), {"data": spec, "model": integer}
    search.run(config, StageContext.alone("search", tmp_path / "whole"), inputs)
    killed = StageContext.alone("search", tmp_path / "killed")
    with monkeypatch.context() as patched:
        kill_at_candidate(patched, kill_at)
        with pytest.raises(KeyboardInterrupt):
            search.run(config, killed, inputs)
    resumed = StageContext.alone("search", tmp_path / "killed")
    search.run(config, resumed, inputs)
    expected = json.loads((tmp_path / "whole/output/search.json").read_text())
    assert json.loads((resumed.output / "search.json").read_text()) == expected


@pytest.mark.slow
def test_workers_find_what_one_finds_where_nothing_is_stopped(
    integer: Path, configure: Any, spec: DataSpec, tmp_path: Path
) -> None:
    found = []
    for workers in (1, 2):
        config = configure("search", patience=None, workers=workers)
        context = StageContext.alone("search", tmp_path / str(workers))
        search.run(config, context, {"data": spec, "model": integer})
        found.append(json.loads((context.output / "search.json").read_text()))
    assert found[0] == found[1]


def test_a_study_in_a_database_is_in_the_output_too(
    integer: Path, configure: Any, spec: DataSpec, tmp_path: Path
) -> None:
    storage = f"sqlite:///{tmp_path}/all.db"
    config = configure("search", storage=storage, max_evaluations=4, max_cost=1.0)
    alone = StageContext.alone("search", tmp_path)
    command = "quala run quala_minilm seed=1"
    context = dataclasses.replace(alone, run_id="r1", provenance={"command": command})
    search.run(config, context, {"data": spec, "model": integer})
    kept, left = optuna.load_study(study_name=None, storage=storage), InMemoryStorage()
    read_study(context.output / "study", left)
    copied = optuna.load_study(study_name=None, storage=left)
    assert kept.study_name == copied.study_name
    assert kept.study_name.startswith("quala_minilm search ")
    assert kept.metric_names == copied.metric_names == ["f1", "gmacs"]
    assert kept.user_attrs == copied.user_attrs
    told = {"command": command, "run": "r1", "cost": "GMACs", "max_cost": 1.0}
    assert told.items() <= kept.user_attrs.items()
    assert [one.values for one in kept.trials] == [one.values for one in copied.trials]
    names = {"stopped_early", "max_cost", "0"}  # the last one is for optuna-dashboard
    assert [set(one.constraints) for one in kept.trials] == [names] * 4


def test_padded_inputs_have_one_cost(tiny_checkpoint: Path, spec: DataSpec) -> None:
    from quala.cost import macs

    opened = load_with_data(tiny_checkpoint, dataclasses.replace(spec, pad_to_max=True))
    lengths = LengthConfig((64, 32), 128)
    assert search.macs_cost(opened, lengths) == macs(opened.model.arch, (64, 32), 128) / 1e9


@pytest.mark.parametrize("limit", [{"max_cost": 1e-6}, {"min_score": 100.0}])
def test_a_budget_that_nothing_meets_is_one_sentence(
    integer: Path, configure: Any, spec: DataSpec, tmp_path: Path, limit: dict[str, float]
) -> None:
    config = configure("search", max_evaluations=4, **limit)
    with pytest.raises(QualaError, match=next(iter(limit))):
        search.run(
            config, StageContext.alone("search", tmp_path), {"data": spec, "model": integer}
        )


def test_an_empty_search_slice_is_one_sentence(
    integer: Path, configure: Any, spec: DataSpec, tmp_path: Path
) -> None:
    inputs = {"data": dataclasses.replace(spec, search_size=0), "model": integer}
    with pytest.raises(QualaError, match=r"data\.search_size"):
        search.run(configure("search"), StageContext.alone("search", tmp_path), inputs)


def test_the_cost_may_be_a_latency(
    integer: Path, configure: Any, spec: DataSpec, tmp_path: Path, recording: Any
) -> None:
    recorder = recording()
    context = surroundings(tmp_path, recorder)
    config = configure("search", cost="latency")
    figures = search.run(config, context, {"data": spec, "model": integer})
    result = read_result(context.output)
    facts = json.loads((context.output / "latency.json").read_text(encoding="utf-8"))
    opened = load_with_data(integer, spec)
    assert result.unit == "ms"
    assert facts["model"]["timing"]["runtime"] == "onnxruntime"
    assert [point["lengths"] for point in facts["front"]] == [str(p.lengths) for p in result.front]
    assert figures["search/latency_error_median"] == facts["error_median"]
    for item, run in zip(result.candidates, recorder.found, strict=True):
        assert item.gmacs == pytest.approx(search.macs_cost(opened, item.lengths))
        assert run.metrics["latency_ms"] == item.cost


def test_a_killed_search_keeps_its_clock(
    integer: Path, configure: Any, spec: DataSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, inputs = configure("search", cost="latency"), {"data": spec, "model": integer}
    context = StageContext.alone("search", tmp_path)
    with monkeypatch.context() as patched:
        kill_at_candidate(patched, 2)
        with pytest.raises(KeyboardInterrupt):
            search.run(config, context, inputs)
    before = (context.scratch / "latency.json").read_text(encoding="utf-8")
    search.run(config, context, inputs)
    after = json.loads((context.output / "latency.json").read_text(encoding="utf-8"))
    assert after["model"] == json.loads(before)


def test_pytorch_is_no_clock(configure: Any) -> None:
    with pytest.raises(QualaError, match="onnxruntime or openvino, got torch"):
        configure("search", cost="latency", runtime="torch")
