"""The store: made once, refused in one sentence."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from quala.errors import QualaError
from quala.manifest import write_manifest
from quala.workflow import Candidate
from quala.workflow.registry import register
from quala.workflow.settings import TrackingConfig
from quala.workflow.store import Store
from quala.workflow.tracking import MANIFEST_TAG

if TYPE_CHECKING:
    from conftest import Toy

OPEN = """
import sys
from quala.workflow.settings import TrackingConfig
from quala.workflow.store import Store
store = Store.open(TrackingConfig(uri=None, folder=sys.argv[1], work=None, experiment="x"))
store.create("run", {}, None)
"""


def test_processes_that_meet_a_fresh_store_do_not_race(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", OPEN, str(tmp_path / "mlruns")]
    both = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    assert [path.name for path in (tmp_path / "mlruns").iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9", "https://no-such-host.invalid", "http://localhost:port"]
)
def test_a_server_that_does_not_answer_is_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(QualaError, match=r"does not answer|a number as its port"):
        Store.open(TrackingConfig(uri=uri, folder=str(tmp_path), work=None, experiment="x"))


def test_an_address_without_a_scheme_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QualaError, match=r"`uri` must begin with one of .*got `nonsense`"):
        TrackingConfig(uri="nonsense", folder=str(tmp_path), work=None, experiment="x")


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file/mlruns")
    with pytest.raises(QualaError, match=r"`folder` must be a folder, got .*file` is none"):
        TrackingConfig(uri=None, folder=folder, work=None, experiment="x")


def test_a_local_output_is_read_in_place(toy: Toy) -> None:
    folder = toy.run("flow.until=first").outcomes[0].folder
    assert folder is not None
    assert (toy.folder / "mlruns/artifacts") in folder.parents


def test_runs_are_read_page_by_page(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quala.workflow.tracking.RUNS_A_PAGE", 2)
    store = toy.run().store
    tags, experiments = {"quala.kind": "stage"}, [store.experiment_id]
    assert len(store.find_runs(experiments, tags, "FINISHED")) == 3
    assert len(store.find_runs(experiments, tags, newest=1)) == 1


def test_the_run_of_a_stage_is_found_by_that_of_its_workflow(toy: Toy) -> None:
    done = toy.run()
    first = done.outcomes[0].run_id
    assert done.store.stage_run(done.run_id, "first") == first
    assert done.store.stage_run(str(first), "first") == first
    with pytest.raises(QualaError, match=f"has no output of `export`.*first {first}"):
        done.store.stage_run(done.run_id, "export")


@pytest.mark.parametrize("umask", [0o002, 0o022])
def test_what_is_stored_has_the_bits_of_the_umask(
    toy: Toy, tmp_path: Path, umask: int, request: pytest.FixtureRequest
) -> None:
    before = os.umask(umask)
    request.addfinalizer(lambda: os.umask(before))
    store = toy.run("flow.only=first").store
    output = tmp_path / "output"
    output.mkdir()
    (output / "private").touch(0o600)  # as the library of safetensors writes
    run = store.create("run", {}, None)
    store.publish(run.info.run_id, output)
    folder, broken = store.fetch(store.client.get_run(run.info.run_id))
    assert broken is None
    files = [path for path in (tmp_path / "mlruns").rglob("*") if path.name != "mlflow.db"]
    assert folder / "private" in files
    for path in files:
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_a_full_disk_leaves_no_draft_of_an_output(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Any, *rest: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "from", None, "to")

    store = toy.run("flow.only=first").store
    output = tmp_path / "output"
    output.mkdir()
    (output / "a").write_text("a")
    run = store.create("run", {}, None).info
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space"):
        store.publish(run.run_id, output)
    assert not list((tmp_path / "mlruns" / "artifacts").rglob(f"{run.run_id}/artifacts/output"))


def _first(toy: Toy) -> tuple[Store, str, Path]:
    done = toy.run("flow.until=first")
    folder, run_id = done.outcomes[0].folder, done.outcomes[0].run_id
    assert folder is not None
    assert run_id is not None
    return done.store, run_id, folder


DAMAGES = {
    "changed": lambda folder: (folder / "text.txt").write_text("other"),
    "missing": lambda folder: (folder / "text.txt").unlink(),
    "joined": lambda folder: (folder / "quala.safetensors").touch(),
    "forged": write_manifest,
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("option", ["stage.second.given", "model.start"])
def test_a_damaged_output_is_not_given(toy: Toy, kind: str, option: str) -> None:
    store, run_id, folder = _first(toy)
    if kind == "forged":
        (folder / "text.txt").write_text("other")
    DAMAGES[kind](folder)
    with pytest.raises(QualaError, match=rf"of run `{run_id}` .* is damaged; its workflow comp"):
        toy.run(f"{option}={run_id}")
    with pytest.raises(QualaError, match=r"is damaged;"):
        store.output(f"runs:/{run_id}/output")


def test_a_damaged_output_is_not_read_by_name_of_a_model(toy: Toy) -> None:
    store, run_id, folder = _first(toy)
    register(store, "model", run_id, run_id, "chosen")
    for name in ("models:/model@chosen", "models:/model/1"):
        assert store.output(name) == folder
    (folder / "text.txt").write_text("other")
    for name in ("models:/model@chosen", "models:/model/1"):
        with pytest.raises(QualaError, match=rf"`text.txt` of run `{run_id}` has .* bytes"):
            store.output(name)


def test_an_output_without_checksums_is_read_with_a_warning(
    toy: Toy, caplog: pytest.LogCaptureFixture
) -> None:
    store, run_id, folder = _first(toy)
    store.client.delete_tag(run_id, MANIFEST_TAG)
    assert store.output(f"runs:/{run_id}/output") == folder
    assert "its files are not verified" in caplog.text


@pytest.mark.parametrize("step", ["record", "finish"])
def test_a_candidate_that_an_interruption_left_is_finished_by_the_next(
    step: str, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = replace(_first(toy)[0], candidate_runs=True)
    parent = store.create("search", {}, None).info.run_id
    found = [Candidate("c", {"f1": 1.0}, {"n": "1"})]

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Store, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.candidates(parent, found)
    store.candidates(parent, found)
    runs = store.find({"mlflow.parentRunId": parent})
    assert [(run.info.status, run.data.metrics["f1"]) for run in runs] == [("FINISHED", 1.0)]


def test_a_candidate_that_is_interrupted_is_marked(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = replace(_first(toy)[0], candidate_runs=True)
    parent = store.create("search", {}, None).info.run_id

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.candidates(parent, [Candidate("c", {"f1": 1.0})])
    assert [run.info.status for run in store.find({"mlflow.parentRunId": parent})] == ["KILLED"]
