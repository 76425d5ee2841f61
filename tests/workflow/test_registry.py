"""Exports as logged models of a run, and as versions of a registered model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quala.errors import QualaError
from quala.manifest import write_manifest
from quala.workflow.registry import log_model, logged_model, register

if TYPE_CHECKING:
    from conftest import Toy


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "model.onnx").write_bytes(b"graph")
    write_manifest(folder)
    return folder


def test_an_export_is_a_logged_model_once(toy: Toy, export: Path) -> None:
    result = toy.run()
    store, stage = result.store, result.outcomes[2].run_id or ""
    other = toy.run("stage.second.text=b")
    before = store.client.get_metric_history(result.run_id, "size")
    for run_id in (result.run_id, result.run_id, other.run_id):
        log_model(store, run_id, stage, export)
    model = logged_model(store, store.experiment_id, stage)
    assert model is not None
    assert model.params is not None
    assert model.params["stage.third.text"] == "a"
    assert {one.key: one.value for one in model.metrics or []}["size"] == 3.0
    assert len(store.client.get_metric_history(result.run_id, "size")) == len(before)
    for run_id in (result.run_id, other.run_id):
        outputs = store.client.get_run(run_id).outputs
        assert outputs is not None
        assert [one.model_id for one in outputs.model_outputs] == [model.model_id]
    files = {one.path for one in store.client.list_logged_model_artifacts(model.model_id)}
    assert {"MLmodel", "model.onnx", "manifest.json"} <= files


def test_a_workflow_of_any_name_has_its_logged_model(toy: Toy, export: Path) -> None:
    toy.script.write_text(toy.script.read_text().replace('workflow("toy"', 'workflow("my.own: 1"'))
    result = toy.run(*(f"+model.key_{number}=org/model" for number in range(120)))
    stage = result.outcomes[2].run_id or ""
    log_model(result.store, result.run_id, stage, export)
    model = logged_model(result.store, result.store.experiment_id, stage)
    assert model is not None
    assert model.name == "my-own- 1"
    assert model.params is not None
    assert model.params["model.key_119"] == "org/model"


def test_a_version_says_what_it_is(toy: Toy, export: Path) -> None:
    result = toy.run()
    store, stage = result.store, result.outcomes[2].run_id or ""
    store.history(result.run_id, [("f1", 80.0, 0), ("gmacs", 1.25, 0), ("front/f1", 80.0, 1)])
    store.tag(result.run_id, {"mlflow.note.content": "The rows."})
    log_model(store, result.run_id, stage, export)
    assert register(store, "mine", stage, stage, "chosen") == "1"
    assert register(store, "mine", result.run_id, stage, "chosen") == "2"
    version = store.client.get_model_version_by_alias("mine", "chosen")
    assert str(version.version) == "2"
    assert version.description == "The rows."
    assert version.tags["f1"] == "80"
    assert version.tags["gmacs"] == "1.25"
    assert version.tags["run"] == result.run_id
    assert version.source == f"runs:/{stage}/output"
    model = logged_model(store, store.experiment_id, stage)
    assert model
    assert version.tags["model"] == model.model_id


def test_a_name_that_the_registry_refuses_is_an_error(toy: Toy) -> None:
    result = toy.run()
    stage = result.outcomes[2].run_id or ""
    with pytest.raises(QualaError, match="could not be registered"):
        register(result.store, "a/b:c", result.run_id, stage, "chosen")
