"""The command line of a workflow, as a process: JSON, sweeps and exit codes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Toy


def ended(toy: Toy, *words: str) -> tuple[int, str, str]:
    process = toy.start(*words)
    out, err = process.communicate(timeout=400)
    return process.returncode, out, err


def test_json_is_one_line_on_standard_output(toy: Toy) -> None:
    code, out, err = ended(toy, "--json")
    assert code == 0, err
    assert [stage["status"] for stage in json.loads(out)["stages"]] == ["done"] * 3


def test_a_mistake_leaves_with_two_and_one_line(toy: Toy) -> None:
    code, out, err = ended(toy, "sed=3")
    assert (code, out) == (2, "")
    assert err == (
        "error: Unknown configuration key `sed`. Did you mean `seed`? Allowed: data, experiment, "
        "flow, hydra, model, progress, seed, stage, tracking, workflow.\n"
    )


def test_a_job_that_fails_leaves_the_others_alone(toy: Toy) -> None:
    code, out, err = ended(toy, "-m", "--json", "stage.second.fail=true,false", "seed=0,1")
    assert code == 1, err
    told = json.loads(out)
    states = [(job["status"], job["error"]) for job in told["jobs"]]
    assert [status for status, _ in states] == ["FAILED", "FAILED", "FINISHED", "FINISHED"]
    assert "told to fail" in states[0][1]
    assert toy.done.count("first") == 1
    store = toy.run().store
    sweep = store.client.get_run(told["sweep"])
    assert sweep.info.status == "FAILED"
    runs = store.find({"quala.kind": "workflow", "mlflow.parentRunId": told["sweep"]})
    assert {job["run_id"] for job in told["jobs"][2:]} <= {run.info.run_id for run in runs}


def test_parallel_jobs_share_what_they_have_in_common(toy: Toy) -> None:
    words = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "stage.second.text=b,c"]
    code, out, err = ended(toy, *words, "stage.first.sleep=1")
    assert code == 0, err
    assert sorted(toy.done) == ["first", "second", "second", "third", "third"]
    assert out.count("FINISHED") == 2
