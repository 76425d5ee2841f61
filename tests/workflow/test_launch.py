"""The command line of a workflow, as a process: JSON, sweeps and exit codes."""

from __future__ import annotations

import json
import logging.config
import shlex
import shutil
import signal
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from omegaconf import OmegaConf

from quala.cli.entry import main
from quala.results import Report
from quala.workflow.execute import Result
from quala.workflow.launch import LOST, _console, show_result

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


LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_job_that_fails_is_told_with_the_command_that_runs_it_alone(
    toy: Toy, launcher: str
) -> None:
    if launcher == "submitit_local":
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    own = toy.folder / "my conf"
    own.mkdir()
    words = ["-m", "--config-dir", str(own), "seed=-1,1", "model.start='a b'"]
    code, out, err = ended(toy, *words, *LAUNCHERS[launcher])
    assert code == 1, err
    assert [word for word in toy.done if word == "third"] == ["third"]
    (line,) = [line for line in out.splitlines() if "Alone" in line]
    head, _, command = line.partition(" Alone: ")
    sentence = "`seed` must be at least 0 and at most 4294967295, got -1."
    assert head == f"Job 0 (`seed=-1`) failed: {sentence}"
    given = shlex.split(command.strip("`"))
    assert given[:3] == ["quala", "run", "toy.py"]
    assert given[3:] == [*words[1:3], "seed=-1", words[-1]]
    if launcher == "basic":
        assert ended(toy, *given[3:]) == (2, "", f"error: {sentence}\n")


def test_the_json_of_a_sweep_has_the_command_of_a_failed_job(toy: Toy) -> None:
    code, out, err = ended(toy, "-m", "--json", "stage.second.fail=true,false")
    assert code == 1, err
    commands = [job.get("alone") for job in json.loads(out)["jobs"]]
    assert commands == ["quala run toy.py stage.second.fail=True", None]


def test_a_job_whose_process_was_killed_is_told_too(toy: Toy) -> None:
    words = ["-m", *LAUNCHERS["joblib"], "stage.first.text=a,b", "stage.first.sleep=60"]
    process = toy.start(*words)
    limit = time.monotonic() + 120
    while len(toy.done) < 2 and time.monotonic() < limit:
        time.sleep(0.05)
    for child in psutil.Process(process.pid).children(recursive=True):
        if "LokyProcess" in " ".join(child.cmdline()):
            child.kill()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    lines = [line for line in out.splitlines() if "Alone" in line]
    assert [line.partition(" Alone")[0] for line in lines] == [
        f"Job {number} (`stage.first.text={text}`) failed: {LOST}"
        for number, text in enumerate("ab")
    ]


def test_what_every_job_has_wrong_is_told_once_before_any(toy: Toy) -> None:
    code, out, err = ended(toy, "-m", "seed=-1", "stage.first.text=a,b,c")
    assert (code, out) == (2, "")
    assert err == "error: `seed` must be at least 0 and at most 4294967295, got -1.\n"
    assert not (toy.folder / "mlruns/hydra").exists()


def test_a_value_that_one_job_has_wrong_leaves_the_others_alone(toy: Toy) -> None:
    code, out, err = ended(toy, "-m", "--json", "seed=-1,1")
    assert code == 1, err
    assert [job["status"] for job in json.loads(out)["jobs"]] == ["FAILED", "FINISHED"]


def test_the_slurm_launcher_is_composed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.chdir(tmp_path)
    words = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "seed=3"]
    assert main(["run", "kdlsq", *words, "hydra.launcher.gpus_per_node=1", "--cfg", "hydra"]) == 0
    found = OmegaConf.create(capsys.readouterr().out).hydra.launcher
    assert found._target_.endswith("SlurmLauncher")
    assert (found.partition, found.gpus_per_node) == ("gpu", 1)


def test_parallel_jobs_share_what_they_have_in_common(toy: Toy) -> None:
    words = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "stage.second.text=b,c"]
    code, out, err = ended(toy, *words, "stage.first.sleep=1")
    assert code == 0, err
    assert sorted(toy.done) == ["first", "second", "second", "third", "third"]
    assert out.count("FINISHED") == 2


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_sweep_that_is_terminated_marks_its_runs(toy: Toy, launcher: str) -> None:
    words = ["-m", "--json", f"hydra/launcher={launcher}", "stage.first.text=a,b"]
    process = toy.start(*words, "stage.first.sleep=60")
    limit = time.monotonic() + 120
    while not toy.done and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert "Traceback" not in err
    told = json.loads(out)
    assert told["error"] in err
    assert {job["status"] for job in told["jobs"]} == {"KILLED"}
    with sqlite3.connect(toy.folder / "mlruns/mlflow.db") as store:
        found = store.execute(
            "SELECT status FROM runs WHERE lifecycle_stage = 'active'"
        ).fetchall()
    assert {status for (status,) in found} == {"KILLED"}


def test_a_failed_run_says_in_json_what_is_finished(toy: Toy) -> None:
    code, out, _ = ended(toy, "--json", "stage.second.fail=true")
    assert code == 1
    told = json.loads(out)
    assert told["error"] == "RuntimeError: grow was told to fail"
    assert told["exit_code"] == 1
    assert [(one["stage"], one["status"]) for one in told["stages"]] == [("first", "done")]
    assert toy.run("flow.until=first").outcomes[0].run_id == told["stages"][0]["run_id"]


def test_what_a_run_prints_is_text_not_markup(
    tmp_path: Path, made_up_report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    title = "Run [v2] of list[int] [/nested] :smile:"
    report = replace(made_up_report, title=title)
    (tmp_path / "report.json").write_text(json.dumps(report.to_json()), encoding="utf-8")
    outcome: Any = SimpleNamespace(name="a[b]", status="done", folder=tmp_path, seconds=1.0)
    store: Any = SimpleNamespace(uri="sqlite:///d[old]/x", experiment="[/e]")
    show_result(Result("[/w]", "0", False, 1.0, [outcome], store), _console())
    out = capsys.readouterr().out
    assert all(text in out for text in (title, " a[b] ", "d[old]/x", "[/e]", "[/w]"))


def test_a_report_is_named_where_there_is_one(
    tmp_path: Path, made_up_report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome: Any = SimpleNamespace(name="first", status="done", folder=tmp_path, seconds=1.0)
    store: Any = SimpleNamespace(uri="sqlite:///x", experiment="e")
    result = Result("w", "0", False, 1.0, [outcome], store)
    show_result(result, _console())
    assert "quala report" not in capsys.readouterr().out
    (tmp_path / "report.json").write_text(json.dumps(made_up_report.to_json()), encoding="utf-8")
    show_result(result, _console())
    assert "quala report 0" in capsys.readouterr().out


def test_no_log_stays_open_after_a_run(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def configure_again(*_: object, **__: object) -> None:  # as libraries do when imported
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
        logging.getLogger("quala").info("A line after it.")

    monkeypatch.setattr("quala.workflow.launch.show_result", configure_again)
    assert main(["run", "toy.py"]) == 0
    (log,) = (toy.folder / "mlruns/hydra/run").rglob("quala.log")
    assert "A line after it." in log.read_text()
    files = [one.path for one in psutil.Process().open_files()]
    assert str(log.resolve()) not in files


def test_help_begins_with_the_workflow(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "kdlsq", "--help"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("usage: quala run kdlsq [overrides]")
    assert "learned steps" in told
    assert "experiments, experiment=NAME:" in told
    assert "kdlsq/paper      SQuAD 1.1 as the authors' code runs it, a GPU" in told
    assert "refine" not in told


def test_the_printed_configuration_has_the_stages_of_the_workflow(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["experiment=kdlsq/squad_cpu", "stage.distill.epochs=7", "--cfg", "job"]
    assert main(["run", "kdlsq", *words]) == 0
    found = OmegaConf.create(capsys.readouterr().out)
    assert set(found.stage) == {"finetune", "distill", "measure", "report", "export"}
    assert (found.stage.distill.epochs, found.workflow) == (7, "kdlsq")


def test_a_part_of_the_configuration_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    part = ["--cfg", "job", "--resolve", "--package", "stage.export"]
    assert main(["run", "kdlsq", *part, "stage.report.title=Mine"]) == 0
    assert OmegaConf.create(capsys.readouterr().out).title == "Mine"


def test_an_override_of_a_stage_that_it_lacks_leaves_with_two(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "kdlsq", "-m", "stage.search.generations=3,4"]) == 2
    assert capsys.readouterr().err == (
        "error: `stage.search.generations=3,4` sets the stage `search`, which the workflow "
        "`kdlsq` does not have; its stages: finetune, distill, measure, report, export.\n"
    )


def test_the_slips_of_a_configuration_are_told(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    migrated_database: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns").mkdir()
    shutil.copy(migrated_database, tmp_path / "mlruns/mlflow.db")
    words = ["stage.search.min_score=0.8", "stage.distill.epochs=7"]
    assert main(["plan", "quala_minilm", *words]) == 0
    told = capsys.readouterr().out
    assert "Note: `stage.search.min_score=0.8` is 0.8 of 100 points; did you mean 80?" in told
    assert "Note: `stage.distill.epochs=7`: the training ends after `max_steps` 20" in told
    assert main(["plan", "quala_minilm", *words, "stage.distill.enabled=false"]) == 2
    assert "`stage.distill.epochs=7` has no effect" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "states"),
    [
        (["stage.second.enabled=true,false", "stage.second.text=b"], 0, ["FINISHED", "FINISHED"]),
        (["stage.second.enabled=false", "stage.second.text=b,c"], 1, ["FAILED", "FAILED"]),
    ],
)
def test_a_sweep_may_switch_off_a_stage_with_options(
    toy: Toy, words: list[str], code: int, states: list[str]
) -> None:
    left, out, err = ended(toy, "-m", "--json", *words)
    jobs = json.loads(out)["jobs"]
    assert (left, [job["status"] for job in jobs]) == (code, states), err
    assert "`stage.second.text=b` has no effect: the stage `second` is switched off" in err
