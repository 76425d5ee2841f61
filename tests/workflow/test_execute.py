"""Running, finding again, forcing and choosing stages."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quala.errors import QualaError
from quala.workflow.execute import Executor
from quala.workflow.tracking import PARENT

if TYPE_CHECKING:
    from conftest import Toy

    from quala.workflow.execute import Result
    from quala.workflow.flow import Artifact, Node


def statuses(result: Result) -> list[str]:
    return [outcome.status for outcome in result.outcomes]


def text(result: Result, stage: int = -1) -> str:
    folder = result.outcomes[stage].folder
    assert folder is not None
    return (folder / "text.txt").read_text()


def test_stages_hand_their_output_on(toy: Toy) -> None:
    result = toy.run("stage.second.text=b", "stage.third.text=c")
    assert text(result) == "abc"
    assert statuses(result) == ["done"] * 3


def test_a_finished_workflow_is_found_again(toy: Toy) -> None:
    first, second = toy.run(), toy.run()
    assert second.reused
    assert second.run_id == first.run_id
    assert statuses(second) == ["cached"] * 3
    assert toy.done == ["first", "second", "third"]


def test_an_option_reruns_its_stage_and_what_hangs_on_it(toy: Toy) -> None:
    toy.run()
    assert statuses(toy.run("stage.second.text=b")) == ["cached", "done", "done"]


def test_an_option_outside_the_identity_reruns_nothing(toy: Toy) -> None:
    toy.run()
    assert statuses(toy.run("stage.second.sleep=0.1")) == ["cached"] * 3


def test_a_failed_stage_goes_on_in_the_same_runs(toy: Toy) -> None:
    with pytest.raises(RuntimeError, match="told to fail"):
        toy.run("stage.second.fail=true")
    result = toy.run()
    assert statuses(result) == ["cached", "resumed", "done"]
    folder = result.outcomes[1].folder
    assert folder is not None
    assert (folder / "resumed.txt").read_text() == "True"
    assert len(result.store.find({"quala.kind": "workflow"})) == 1
    assert len(result.store.find({"quala.kind": "stage"})) == 3


def test_a_failure_is_recorded_on_stage_and_workflow(toy: Toy) -> None:
    toy.run()
    with pytest.raises(RuntimeError):
        toy.run("stage.second.fail=true", "stage.second.text=b")
    store = toy.run().store
    failed = store.find({"quala.kind": "stage"}, "FAILED")
    assert [run.info.run_name for run in failed] == ["second"]
    assert "told to fail" in failed[0].data.tags["quala.error"]
    assert len(store.find({"quala.kind": "workflow"}, "FAILED")) == 1


def test_a_message_about_the_data_is_logged_once(
    toy: Toy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, step = logging.getLogger("quala.data.taskdata"), Executor.step

    def loud(self: Executor, node: Node) -> Artifact:
        log.warning("300 questions")
        return step(self, node)

    monkeypatch.setattr(Executor, "step", loud)
    toy.run()
    assert caplog.text.count("300 questions") == 1
    toy.run("flow.force=[second]")
    assert caplog.text.count("300 questions") == 2
    log.warning("300 questions")
    log.warning("300 questions")
    assert caplog.text.count("300 questions") == 4


def test_a_damaged_output_is_computed_again(toy: Toy, caplog: pytest.LogCaptureFixture) -> None:
    folder = toy.run().outcomes[1].folder
    assert folder is not None
    (folder / "text.txt").write_text("xx")
    result = toy.run()
    assert statuses(result) == ["cached", "done", "cached"]
    assert "text.txt" in caplog.text
    assert text(result, 1) == "aa"


def test_a_removed_output_is_computed_again(toy: Toy) -> None:
    folder = toy.run().outcomes[0].folder
    assert folder is not None
    (folder / "text.txt").unlink()
    assert statuses(toy.run()) == ["done", "cached", "cached"]


def test_force_runs_one_stage_anew(toy: Toy) -> None:
    toy.run()
    assert statuses(toy.run("flow.force=[second]")) == ["cached", "done", "cached"]
    assert statuses(toy.run("stage.first.force=true")) == ["done", "cached", "cached"]


def test_since_runs_a_stage_and_its_followers_anew(toy: Toy) -> None:
    toy.run()
    assert statuses(toy.run("flow.since=second")) == ["cached", "done", "done"]


def test_an_interrupted_forced_run_keeps_what_it_did(toy: Toy) -> None:
    toy.run()
    with pytest.raises(RuntimeError):
        toy.run("flow.since=second", "stage.third.fail=true")
    assert statuses(toy.run("flow.since=second")) == ["cached", "cached", "resumed"]


def test_until_leaves_later_stages_out(toy: Toy) -> None:
    assert statuses(toy.run("flow.until=second")) == ["done", "done", "left out"]


def test_only_needs_its_inputs(toy: Toy) -> None:
    with pytest.raises(QualaError, match=r"stage\.first\.given"):
        toy.run("flow.only=second")
    assert toy.done == []


def test_only_runs_one_stage(toy: Toy) -> None:
    toy.run("flow.until=second")
    assert statuses(toy.run("flow.only=third")) == ["left out", "cached", "done"]


def test_an_output_can_be_given_as_a_folder(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/text.txt").write_text("mine-")
    result = toy.run("stage.second.given=mine")
    assert statuses(result) == ["left out", "given", "done"]
    assert text(result) == "mine-a"


@pytest.mark.parametrize("form", ["{}", "runs:/{}", "runs:/{}/output"])
def test_an_output_can_be_given_as_a_run(toy: Toy, form: str) -> None:
    run_id = toy.run("stage.first.text=z").outcomes[0].run_id or ""
    assert text(toy.run(f"stage.second.given={form.format(run_id)}")) == "za"


def test_a_given_output_must_exist(toy: Toy) -> None:
    with pytest.raises(QualaError, match="nowhere"):
        toy.run("stage.second.given=nowhere")


def test_a_stage_switched_off_hands_its_input_on(toy: Toy) -> None:
    result = toy.run("stage.second.enabled=false", "stage.third.text=c")
    assert text(result) == "ac"
    assert [outcome.name for outcome in result.outcomes] == ["first", "third"]


def test_a_stage_without_pass_through_cannot_be_left_out_of_a_chain(toy: Toy) -> None:
    with pytest.raises(QualaError, match="switched off"):
        toy.run("stage.first.enabled=false")


def test_runs_form_a_tree(toy: Toy) -> None:
    result = toy.run()
    stages = result.store.find({"quala.kind": "stage"})
    assert {run.data.tags[PARENT] for run in stages} == {result.run_id}
    again = toy.run("stage.third.text=c", "tracking.candidates=true")
    candidates = again.store.find({"quala.kind": "candidate"})
    assert len(candidates) == 2
    assert {run.data.tags[PARENT] for run in candidates} == {again.outcomes[2].run_id}


def test_metrics_stand_on_the_workflow_run_too(toy: Toy) -> None:
    result = toy.run()
    metrics = result.store.client.get_run(result.run_id).data.metrics
    assert metrics == {"first.size": 1, "second.size": 2, "third.size": 3, "size": 3}


def test_every_run_says_where_it_comes_from(toy: Toy) -> None:
    result = toy.run("seed=3")
    for run_id in (result.run_id, result.outcomes[0].run_id or ""):
        folder = result.store.download(f"runs:/{run_id}/provenance", toy.folder)
        names = {path.name for path in folder.iterdir()}
        assert {"config.yaml", "overrides.txt", "versions.json", "hardware.json"} <= names
        assert "seed: 3" in (folder / "config.yaml").read_text()
        assert (folder / "overrides.txt").read_text() == "seed=3"
        assert "mlflow" in json.loads((folder / "versions.json").read_text())
        assert "cpu" in json.loads((folder / "hardware.json").read_text())
        assert result.store.client.get_run(run_id).data.tags["quala.seed"] == "3"


def test_work_under_way_is_removed_after_success(toy: Toy) -> None:
    toy.run()
    assert list((toy.folder / "mlruns/work").iterdir()) == []


def test_a_model_folder_counts_by_content(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "start").mkdir()
    (tmp_path / "start/weights").write_text("1")
    toy.run("model.start=start")
    (tmp_path / "start/weights").write_text("2")
    assert statuses(toy.run("model.start=start")) == ["cached", "cached", "done"]


@pytest.mark.parametrize("key", ["model.start", "stage.second.given"])
def test_a_home_folder_counts_by_content(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "start").mkdir()
    (tmp_path / "start/text.txt").write_text("1")
    toy.run(f"{key}='~/start'")
    (tmp_path / "start/text.txt").write_text("2")
    assert statuses(toy.run(f"{key}='~/start'"))[-1] == "done"


def test_an_edited_stage_of_ones_own_is_computed_again(toy: Toy, tmp_path: Path) -> None:
    toy.run()
    file = tmp_path / "toy_stages.py"
    file.write_text(file.read_text() + "\nEDITED = True\n")
    assert statuses(toy.run()) == ["done"] * 3
    assert statuses(toy.run()) == ["cached"] * 3
