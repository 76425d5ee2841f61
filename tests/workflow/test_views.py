"""Views of MLflow's interface: which runs they show, and the pages that lead to them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from quala.workflow import views

if TYPE_CHECKING:
    from conftest import Toy

    from quala.workflow.store import Store


def view(store: Store, key: str) -> dict[str, Any]:
    tags = store.client.get_experiment(store.experiment_id).tags
    found: dict[str, Any] = json.loads(tags[f"mlflow.sharedViewState.{key}"])
    return found


def test_an_experiment_opens_on_its_runs(toy: Toy) -> None:
    store = toy.run().store
    kind = "mlflow.experimentKind"
    tags = store.client.get_experiment(store.experiment_id).tags
    assert tags[kind] == "custom_model_development"
    store.client.delete_experiment_tag(store.experiment_id, kind)  # as older versions left it
    toy.run()
    assert kind in store.client.get_experiment(store.experiment_id).tags


def test_the_fronts_of_all_runs(toy: Toy) -> None:
    store = toy.run().store
    views.show_fronts(store.client, store.experiment_id, "f1")
    found = view(store, "quala-fronts-f1")
    runs = store.client.search_runs([store.experiment_id], found["searchFilter"])
    assert [run.info.run_name for run in runs] == ["toy"]
    lines = [one for one in found["compareRunCharts"] if one["type"] == "LINE"]
    axes = [(one["metricKey"], one["selectedXAxisMetricKey"]) for one in lines]
    assert axes == [("front/f1", "front/gmacs"), ("front/f1", "front/milliseconds")]
    assert json.loads(found["state"])["compareRunCharts"] == found["compareRunCharts"]
    assert found["orderByKey"] != "attributes.start_time", "a sweep's jobs would be folded away"


def test_a_view_that_is_there_is_not_written_again(toy: Toy) -> None:
    store = toy.run().store
    views.show_fronts(store.client, store.experiment_id, "f1")
    before = view(store, "quala-fronts-f1")
    views.show_fronts(store.client, store.experiment_id, "f1")
    assert view(store, "quala-fronts-f1") == before


def test_a_sweep_shows_its_jobs_by_what_they_vary(toy: Toy) -> None:
    results = [toy.run(f"stage.third.text={text}") for text in "bcd"]
    store, runs = results[0].store, [result.run_id for result in results[:2]]
    params = ["stage.third.text"]
    views.show_sweep(store.client, store.experiment_id, "ab" * 16, runs, "f1", params)
    found = view(store, views.sweep_key("ab" * 16))
    shown = store.client.search_runs([store.experiment_id], found["searchFilter"])
    assert {run.info.run_id for run in shown} == set(runs)
    parallel = next(one for one in found["compareRunCharts"] if one["type"] == "PARALLEL")
    assert parallel["selectedParams"] == params
    assert found["name"].startswith("Sweep: text, ")


def test_only_the_newest_sweeps_keep_a_view(toy: Toy) -> None:
    store = toy.run().store
    for number in range(views.MOST + 2):
        sweep = f"{number:032x}"[::-1]
        views.show_sweep(store.client, store.experiment_id, sweep, ["a"], "f1", ["seed"])
    keys = views.views(store.client.get_experiment(store.experiment_id).tags)
    assert len(keys) == views.MOST
    assert views.sweep_key(f"{0:032x}") not in keys


def test_many_jobs_fit_into_a_view(toy: Toy) -> None:
    store = toy.run().store
    runs = [f"{number:032x}" for number in range(views.MOST_LISTED)]
    params = [f"stage.distill.option_{number}" for number in range(8)]
    views.show_sweep(store.client, store.experiment_id, "a" * 32, runs, "f1", params)
    views.show_sweep(store.client, store.experiment_id, "b" * 32, [*runs, "c"], "f1", params)
    assert "parentRunId" in view(store, views.sweep_key("b" * 32))["searchFilter"]


def test_the_newest_view_is_opened_first(toy: Toy) -> None:
    store = toy.run().store
    here = "http://here"
    assert views.landing(store.client, here).startswith(f"{here}/#/experiments/1/runs?")
    views.show_fronts(store.client, store.experiment_id, "f1")
    assert "quala-fronts-f1" in views.landing(store.client, here)
    views.show_sweep(store.client, store.experiment_id, "ab" * 16, ["a"], "f1", ["seed"])
    assert views.sweep_key("ab" * 16) in views.landing(store.client, here)


def test_pages() -> None:
    page = views.address("http://here:5000/", "7", view="quala-fronts-f1")
    place, _, asked = page.partition("?")
    assert place == "http://here:5000/#/experiments/7/runs"
    assert parse_qs(asked)["viewStateShareKey"] == ["quala-fronts-f1"]
    assert "/runs/abc?" in views.address("http://here:5000", "7", run="abc")
    asked = views.compared("http://here:5000", "7", ["a", "b"]).partition("?")[2]
    assert json.loads(parse_qs(asked)["runs"][0]) == ["a", "b"]
