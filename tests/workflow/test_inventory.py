"""What a store holds, what is damaged in it, and what is removed from it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from quala.errors import QualaError
from quala.workflow import inventory as module
from quala.workflow import views
from quala.workflow.execute import Result
from quala.workflow.inventory import (
    Inventory,
    check_database_file,
    check_output,
    check_versions,
    plan_removal,
)
from quala.workflow.registry import log_model, logged_model, register
from quala.workflow.tracking import Tracking

if TYPE_CHECKING:
    from conftest import Toy


def held(toy: Toy) -> Inventory:
    return Inventory.of(Tracking.connect(f"sqlite:///{toy.folder}/mlruns/mlflow.db"))


def stage(done: Result, name: str) -> str:
    return next(str(one.run_id) for one in done.outcomes if one.name == name)


def output(done: Result, name: str) -> Path:
    return next(one.folder for one in done.outcomes if one.name == name and one.folder)


def damages(toy: Toy) -> list[str]:
    found = held(toy)
    outputs = (check_output(found, run) for run in found.of_kind("stage"))
    all_found = [*check_versions(found), *(one for one in outputs if one)]
    return [one.what for one in all_found if one.damaged]


def rows(toy: Toy, table: str) -> int:
    with closing(sqlite3.connect(toy.folder / "mlruns/mlflow.db")) as database:
        return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def failed(toy: Toy) -> None:
    with pytest.raises(RuntimeError, match="told to fail"):
        toy.run("stage.first.text=q", "stage.second.fail=true")


def test_a_stage_that_two_runs_share_is_of_neither_alone(toy: Toy) -> None:
    one, other = toy.run(), toy.run("stage.third.text=other")
    found = held(toy)
    runs = [found.find(done.run_id) for done in (one, other)]
    shared = sum(found.size(found.runs[stage(one, name)]) for name in ("first", "second"))
    assert shared > 0
    assert [found.whole(run) - found.alone(run) for run in runs] == [shared, shared]
    assert sum(map(found.alone, runs)) + shared == sum(
        map(found.size, found.of_kind("workflow", "stage"))
    )


def test_a_run_is_found_by_the_beginning_of_its_id(toy: Toy) -> None:
    done = toy.run("flow.until=first")
    found = held(toy)
    assert found.find(done.run_id[:8]).info.run_id == done.run_id
    for name, wrong in (
        (done.run_id[:3], "is short"),
        (stage(done, "first"), f"is no run of a .*Newest: {done.run_id[:8]}"),
    ):
        with pytest.raises(QualaError, match=wrong):
            found.find(name)


def test_what_is_unused_goes_and_what_is_needed_stays(toy: Toy) -> None:
    kept = toy.run()
    before = rows(toy, "runs")
    failed(toy)
    work = list((toy.folder / "mlruns/work").iterdir())
    plan = plan_removal(held(toy), [], unused=True)
    assert sorted(plan.runs.values()) == ["failed", *["no workflow run needs it"] * 2]
    assert list(plan.folders) == work
    assert plan.bytes > 0
    assert len(list((toy.folder / "mlruns/work").iterdir())) == 1  # nothing is done yet
    plan.apply()
    assert rows(toy, "runs") == before
    assert not list((toy.folder / "mlruns/work").iterdir())
    assert len(list((toy.folder / "mlruns/artifacts/toy").iterdir())) == 4
    assert toy.run().run_id == kept.run_id
    assert not plan_removal(held(toy), [], unused=True).runs


def test_a_run_that_is_named_goes_without_what_others_need(toy: Toy) -> None:
    each = "tracking.candidates=true"
    one, other = toy.run(each), toy.run("stage.third.text=other", each)
    plan = plan_removal(held(toy), [one.run_id[:8]], unused=False)
    assert set(plan.runs) == {one.run_id, stage(one, "third")}
    plan.apply()
    assert rows(toy, "runs") == 1 + 3 + 2  # with the two candidates of `third`
    assert toy.run("stage.third.text=other", each).run_id == other.run_id
    assert not damages(toy)
    with pytest.raises(QualaError, match="is no run of a workflow"):
        held(toy).find(one.run_id)
    assert toy.run().outcomes[2].status == "done"


@pytest.mark.parametrize("step", ["files", "records"])
def test_a_removal_that_is_interrupted_is_ended_by_the_next(
    step: str, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    done = toy.run()
    calls: list[object] = []

    def interrupted(real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            calls.append(arguments)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return real(*arguments, **named)

        return call

    where: Any = (shutil, "rmtree") if step == "files" else (SqlAlchemyStore, "_hard_delete_run")
    with monkeypatch.context() as patched:
        patched.setattr(*where, interrupted(getattr(*where)))
        with pytest.raises(KeyboardInterrupt):
            plan_removal(held(toy), [done.run_id], unused=False).apply()
    assert not damages(toy)
    plan = plan_removal(held(toy), [], unused=True)
    assert set(plan.runs.values()) == {"deleted"}
    plan.apply()
    assert rows(toy, "runs") == 0
    assert not list((toy.folder / "mlruns/artifacts/toy").iterdir())


def test_models_of_mlflow_go_with_their_run(toy: Toy) -> None:
    done = toy.run("flow.until=first")
    client = done.store.client
    made = client.create_logged_model(
        done.store.experiment_id, name="own", source_run_id=done.run_id
    )
    other = client.create_logged_model(done.store.experiment_id, name="other")
    (toy.folder / "model.txt").write_text("weights")
    client.log_model_artifacts(made.model_id, str(toy.folder / "conf"))
    plan_removal(held(toy), [done.run_id], unused=False).apply()
    found = client.search_logged_models([done.store.experiment_id])
    assert [one.model_id for one in found] == [other.model_id]
    assert not (toy.folder / "mlruns/artifacts/toy/models" / made.model_id).exists()


def test_what_is_registered_stays(toy: Toy) -> None:
    done = toy.run()
    register(done.store, "model", stage(done, "second"), stage(done, "second"), "chosen")
    plan = plan_removal(held(toy), [done.run_id], unused=True)
    assert set(plan.runs) == {done.run_id, stage(done, "first"), stage(done, "third")}
    plan.apply()
    assert not damages(toy)
    assert done.store.output("models:/model@chosen") == output(done, "second")
    done.store.client.delete_run(stage(done, "second"))
    assert damages(toy) == ["is of a run that was deleted"]
    assert stage(done, "second") not in plan_removal(held(toy), [], unused=True).runs


def test_a_workflow_run_that_is_registered_is_refused(toy: Toy) -> None:
    done = toy.run("flow.until=first")
    client = done.store.client
    client.create_registered_model("model")
    client.create_model_version("model", f"runs:/{done.run_id}/provenance", done.run_id)
    with pytest.raises(QualaError, match="is registered as `model` version 1: delete that first"):
        plan_removal(held(toy), [done.run_id], unused=True)


def test_a_run_that_a_configuration_names_stays(toy: Toy) -> None:
    one = toy.run("stage.first.text=b", "flow.until=first")
    toy.run(f"model.start={stage(one, 'first')}")
    assert set(plan_removal(held(toy), [one.run_id], unused=True).runs) == {one.run_id}


@pytest.fixture
def always_busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(module, "busy", lambda run: True)
        yield


@pytest.mark.usefixtures("always_busy")
def test_what_a_run_under_way_may_need_stays(toy: Toy) -> None:
    failed(toy)
    done = toy.run()
    plan = plan_removal(held(toy), [done.run_id], unused=True)
    assert set(plan.runs) == {done.run_id}
    assert not plan.folders
    assert plan.notes == ["A workflow is under way: the outputs of all finished stages stay."]
    (busy_one,) = (run for run in held(toy).of_kind("workflow") if run.info.status != "FINISHED")
    with pytest.raises(QualaError, match="is under way: stop it first"):
        plan_removal(held(toy), [busy_one.info.run_id], unused=False)


def test_a_job_goes_with_its_sweep(toy: Toy) -> None:
    done = toy.run("flow.until=first")
    sweep = done.store.create("toy sweep", {"quala.kind": "sweep"}, None).info.run_id
    job = f'{{"job": 0, "overrides": [], "status": "FINISHED", "run_id": "{done.run_id}"}}'
    done.store.client.set_tag(sweep, "quala.job.0", job)
    assert not plan_removal(held(toy), [], unused=True).runs  # though it is not finished
    with pytest.raises(QualaError, match=f"is a job of the sweep `{sweep}`"):
        plan_removal(held(toy), [done.run_id], unused=False)
    client, experiment_id = done.store.client, done.store.experiment_id
    views.show_sweep(client, experiment_id, sweep, [done.run_id], "f1", [])
    plan_removal(held(toy), [sweep], unused=False).apply()
    assert rows(toy, "runs") == 0
    assert not views.views(client.get_experiment(experiment_id).tags)


def test_only_what_is_old_goes(toy: Toy) -> None:
    failed(toy)
    assert not plan_removal(held(toy), [], unused=True, days=1).runs
    with closing(sqlite3.connect(toy.folder / "mlruns/mlflow.db")) as database, database:
        two_days = 2 * 86_400_000
        database.execute(f"UPDATE runs SET end_time = end_time - {two_days}")
    assert len(plan_removal(held(toy), [], unused=True, days=1).runs) == 3


def test_a_folder_of_no_run_goes(toy: Toy) -> None:
    toy.run("flow.until=first")
    stray = toy.folder / "mlruns/artifacts/toy" / ("a" * 32)
    stray.mkdir()
    (toy.folder / "mlruns/artifacts/toy/models").mkdir()
    plan = plan_removal(held(toy), [], unused=True)
    assert plan.folders == {stray: "of no run"}
    plan.apply()
    assert not stray.exists()


def test_unfinished_work_of_another_store_stays(toy: Toy) -> None:
    toy.run("flow.until=first")
    (toy.folder / "mlruns/work/0123456789abcdef").mkdir()
    assert not plan_removal(held(toy), [], unused=True).folders


@pytest.mark.parametrize("kind", ["changed", "missing"])
def test_a_damaged_output_is_named(toy: Toy, kind: str) -> None:
    done = toy.run()
    assert not damages(toy)
    file = output(done, "second") / "text.txt"
    file.write_text("xx") if kind == "changed" else file.unlink()
    (what,) = damages(toy)
    assert what.startswith(f"`text.txt` {'has another content' if kind == 'changed' else 'is mi'}")
    toy.run()
    assert not damages(toy)
    plan_removal(held(toy), [], unused=True).apply()
    assert not damages(toy)


def test_a_version_without_its_run_is_named(toy: Toy) -> None:
    done = toy.run("flow.until=first")
    register(done.store, "model", stage(done, "first"), stage(done, "first"), "chosen")
    with closing(sqlite3.connect(toy.folder / "mlruns/mlflow.db")) as database, database:
        database.execute("DELETE FROM runs WHERE name = 'first'")
    assert damages(toy) == [f"is of a run that is gone, {stage(done, 'first')}"]
    assert not [*check_database_file(toy.folder / "mlruns/mlflow.db")]


def test_a_damaged_database_is_named(tmp_path: Path, template: Path) -> None:
    content = bytearray(template.read_bytes())
    content[50_000:60_000] = bytes(10_000)
    (tmp_path / "mlflow.db").write_bytes(content)
    (found, *_) = check_database_file(tmp_path / "mlflow.db")
    assert found.damaged


def exported(toy: Toy, folder: Path) -> tuple[Result, Result, str]:
    """Return two runs that show the same logged model."""
    one, other = toy.run(), toy.run("stage.third.text=other")
    for done in (one, other):
        log_model(done.store, done.run_id, stage(one, "second"), folder)
    model = logged_model(one.store, one.store.experiment_id, stage(one, "second"))
    assert model is not None
    return one, other, str(model.model_id)


def test_a_logged_model_keeps_what_the_runs_that_stay_gave_it(toy: Toy) -> None:
    one, other, model = exported(toy, toy.folder / "conf")
    plan_removal(held(toy), [one.run_id], unused=False).apply()
    found = other.store.client.get_logged_model(model)
    assert found.source_run_id == other.run_id
    assert {(one.key, one.run_id) for one in found.metrics} == {("size", other.run_id)}
    assert Path(found.artifact_location.removeprefix("file://"), "config.yaml").is_file()
    plan_removal(held(toy), [other.run_id], unused=False).apply()
    assert not rows(toy, "logged_models")


def test_a_version_of_a_logged_model_is_whole_and_keeps_its_export(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, model = exported(toy, toy.folder / "conf")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", one.store.uri)  # which MLflow's registry asks
    client = one.store.client
    client.create_registered_model("mine")  # as the button of MLflow's pages does
    client.create_model_version("mine", f"models:/{model}", other.run_id)
    client.set_registered_model_alias("mine", "chosen", "1")
    assert not damages(toy)
    for place in ("models:/mine@chosen", "models:/mine/1", f"models:/{model}"):
        assert one.store.output(place) == output(one, "second")
    client.delete_run(other.run_id)
    plan = plan_removal(held(toy), [one.run_id], unused=True)
    assert stage(one, "second") not in plan.runs
    plan.apply()
    assert not damages(toy)
    client.delete_logged_model(model)
    assert damages(toy) == [f"is of a run that is gone, {model}"]
