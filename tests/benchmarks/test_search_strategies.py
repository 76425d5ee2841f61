"""The comparison of search strategies: what it counts, keeps and writes."""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quala.search.study import run_search

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("search_strategies")


def opened(bench: ModuleType, folder: Path) -> tuple[Any, Any]:
    return bench.synthetic_store(folder / "scores.jsonl", step=32, floor=0.2)


@pytest.mark.parametrize(("name", "budget"), [("published", 56), ("quala", 56), ("bayesian", 20)])
def test_a_strategy_evaluates_what_a_study_would(
    bench: ModuleType, name: str, budget: int, tmp_path: Path
) -> None:
    store, space = opened(bench, tmp_path)
    known = bench.search(name, store, space, seed=2, budget=budget)
    settings = replace(bench.settings(name, seed=2), generations=budget, max_evaluations=budget)
    study = run_search(store, space, settings, tmp_path / "study")
    assert [k.lengths for k in known] == [found.lengths for found in study.candidates]


def test_nsga2_counts_a_candidate_once_and_scores_none_below_the_floor(
    bench: ModuleType, tmp_path: Path
) -> None:
    store, space = opened(bench, tmp_path)
    known = bench.search("nsga2", store, space, seed=1, budget=120)
    assert len({k.lengths for k in known}) == len(known) == 120 == store.scored
    assert min(k.cost for k in known) >= store.cost(space.lowest)


def test_a_killed_run_goes_on_with_the_scores_that_it_has(
    bench: ModuleType, tmp_path: Path
) -> None:
    store, space = opened(bench, tmp_path)
    known = bench.search("published", store, space, seed=1, budget=40)
    store.file.write_bytes(store.file.read_bytes()[:-3])
    again, _ = opened(bench, tmp_path)
    assert bench.search("published", again, space, seed=1, budget=40) == known
    assert again.scored == 1


@pytest.mark.slow
def test_fronts_are_scored_again_on_questions_of_the_test_set(
    bench: ModuleType, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    sizes = ["--budget", "12", "--quala-budget", "6", "--seeds", "1", "--step", "16"]
    words = ["--model", str(tiny_checkpoint), "--questions", "4", "--holdout", "3"]
    bench.main(["--out", str(tmp_path), *sizes, *words, "--strategies", "published"])
    (run,) = json.loads((tmp_path / "search_strategies.json").read_text())["runs"]
    assert run["held_out"].keys() == {"6", "12"}
    store, space = bench.checkpoint_store(
        tiny_checkpoint, None, tmp_path / "search_strategies.holdout.jsonl",
        questions=3, batch=8, step=16, floor=0.2, test=True,
    )  # fmt: skip
    search, _ = bench.checkpoint_store(
        tiny_checkpoint, None, tmp_path / "search_strategies.scores.jsonl",
        questions=4, batch=8, step=16, floor=0.2,
    )  # fmt: skip
    assert set(store.identity["questions"]).isdisjoint(search.identity["questions"])
    known = bench.search("published", search, space, seed=1, budget=12)
    candidates = [point.lengths for point in bench.frontier(known)]
    limits = {"cheapest": store.cost(space.lowest), "dearest": store.cost(space.full)}
    assert run["held_out"]["12"] == bench.area(store.known(candidates), **limits)


def test_the_count_to_a_level_is_where_the_history_first_reaches_it(
    bench: ModuleType, tmp_path: Path
) -> None:
    sizes = ["--budget", "90", "--quala-budget", "24", "--seeds", "1", "--step", "32"]
    bench.main(["--out", str(tmp_path), *sizes])
    found = json.loads((tmp_path / "search_strategies.json").read_text())
    runs = {run["strategy"]: run for run in found["runs"]}
    level, end = runs["published"]["final"], runs["published"]["needed"]["best"]
    below = [value for count, value in runs["published"]["history"] if count < end]
    assert found["published_final"]["best"] == level
    assert end > 22
    assert max(below) < level
    assert runs["quala"]["evaluations"] == 24
    assert (tmp_path / "search_strategies.png").stat().st_size > 0
