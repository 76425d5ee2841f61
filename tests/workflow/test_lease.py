"""Two processes at once, and processes that die: real ones."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from quala.workflow.lease import Owner

if TYPE_CHECKING:
    from conftest import Toy


def wait_for(toy: Toy, stage: str) -> None:
    limit = time.monotonic() + 120
    while stage not in toy.done and time.monotonic() < limit:
        time.sleep(0.05)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    return out + err


def test_this_process_is_alive() -> None:
    assert Owner.this().alive(heartbeat=0.0)


def test_an_id_that_was_given_to_another_process_is_dead() -> None:
    mine = Owner.this()
    assert not dataclasses.replace(mine, started=mine.started - 1000).alive(heartbeat=0.0)


def test_a_process_id_that_is_free_is_dead() -> None:
    free = max(psutil.pids()) + 100_000
    assert not dataclasses.replace(Owner.this(), pid=free).alive(heartbeat=0.0)


def test_another_host_lives_by_its_heartbeat() -> None:
    other = dataclasses.replace(Owner.this(), host="elsewhere", since=0.0)
    assert other.alive(heartbeat=time.time() - 10)
    assert not other.alive(heartbeat=time.time() - 100)


def test_two_equal_workflows_at_once_do_the_work_once(toy: Toy) -> None:
    both = [toy.start("stage.first.sleep=1") for _ in range(2)]
    for process in both:
        finish(process)
    assert sorted(toy.done) == ["first", "second", "third"]
    result = toy.run()
    assert result.reused
    assert len(result.store.find({"quala.kind": "workflow"})) == 1
    assert len(result.store.find({"quala.kind": "stage"})) == 3


def test_two_workflows_share_the_stage_they_have_in_common(toy: Toy) -> None:
    both = [toy.start("stage.first.sleep=1", f"stage.second.text={text}") for text in "bc"]
    for process in both:
        finish(process)
    assert sorted(toy.done) == ["first", "second", "second", "third", "third"]


def test_a_killed_workflow_goes_on_in_the_same_runs(toy: Toy) -> None:
    killed = toy.start("stage.second.sleep=60")
    wait_for(toy, "second")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    result = toy.run("stage.second.sleep=60")
    assert [outcome.status for outcome in result.outcomes] == ["cached", "resumed", "done"]
    folder = result.outcomes[1].folder
    assert folder is not None
    assert (folder / "resumed.txt").read_text() == "True"
    assert len(result.store.find({"quala.kind": "workflow"})) == 1
    assert len(result.store.find({"quala.kind": "stage"})) == 3


def test_one_of_two_takes_a_dead_run_over(toy: Toy) -> None:
    killed = toy.start("stage.first.sleep=60")
    wait_for(toy, "first")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    both = [toy.start("stage.first.sleep=60") for _ in range(2)]
    for process in both:
        finish(process)
    assert sorted(toy.done) == ["first", "first", "second", "third"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_workflow_says_how_to_go_on(
    toy: Toy, number: signal.Signals, code: int
) -> None:
    process = toy.start("stage.first.sleep=60")
    wait_for(toy, "first")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "the same command goes on" in err
    assert toy.run("stage.first.sleep=60").outcomes[0].status == "resumed"
