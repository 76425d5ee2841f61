"""What is shown of a sweep: its overrides, its best job, the table of its run, its plan."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pandas
import pytest
from commandline import quiet_logging
from mlflow.exceptions import MlflowException

from quala.cli.entry import main
from quala.workflow import launch
from quala.workflow.settings import TrackingConfig
from quala.workflow.store import Store
from quala.workflow.sweep import best_job, best_of, varied, varied_options

if TYPE_CHECKING:
    from conftest import Toy


def test_a_sweep_shows_what_its_jobs_differ_in() -> None:
    same = ["experiment=demo", "data.title='a b'"]
    assert varied([[*same, "seed=0"], [*same, "seed=1"]]) == ["seed=0", "seed=1"]
    assert varied([[*same]]) == ["experiment=demo data.title='a b'"]
    assert varied([]) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [("'a, b'", "a, b"), ("""'it is "q"'""", 'it is "q"'), ("'it\\'s'", "it's"),
     (r"c\ \,d", "c ,d"), ("'", "'"), ("[a,'b']", "[a,'b']"), (r"a\b", r"a\b")],
)  # fmt: skip
def test_a_value_is_shown_without_its_quotes(text: str, value: str) -> None:
    assert varied_options([[f"x={text}"]]) == [{"x": value}]


def test_the_best_of_several_values_are_those_that_no_other_dominates() -> None:
    assert best_of([[1, 1], [2, 0], [0, 2], [1, 1], [0, 1]]) == [0, 1, 2, 3]
    assert best_of([[1], [3], [2]]) == [1]
    assert best_of([]) == []


@pytest.mark.parametrize(
    ("found", "directions", "best"),
    [
        ([{"f1_chosen": 80.0}, {"f1_chosen": 81.0}, {}], {}, 1),
        ([{"accuracy": 80.0, "gmacs": 2.0}, {"accuracy": 80.0, "gmacs": 1.0}], {}, 1),
        ([{"f1_full": 1.0, "gmacs_full": 1.0}, {"f1_full": 1.0, "gmacs_full": 2.0}], {}, 0),
        ([{"x": 3.0}, {"x": 2.0}], {"x": "minimize"}, 1),
        ([{"x": 3.0}, {}], {}, None),
        ([], {}, None),
    ],
)
def test_the_best_job_is_that_of_the_highest_score_or_first_objective(
    found: list[dict[str, float]], directions: dict[str, str], best: int | None
) -> None:
    assert best_job(found, directions) == best


def test_the_run_of_a_sweep_has_a_name_and_a_table(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    with quiet_logging():
        words = ["stage.second.text=b,c", "seed=0,1", "stage.third.fail=false"]
        assert launch.run(toy.workflow, ["-m", "--json", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    store = Store.open(TrackingConfig(None, "mlruns", None, "toy"))
    run = store.client.get_run(told["sweep"])
    assert run.info.run_name == "toy sweep: text x seed"
    assert run.data.metrics == {"jobs": 4, "failed": 0}
    # Both as `MlflowClient.log_table` writes them.
    assert run.data.tags["mlflow.loggedArtifacts"] == '[{"path": "sweep.json", "type": "table"}]'
    file = store.client.download_artifacts(told["sweep"], "sweep.json")
    table: Any = pandas.read_json(file, orient="split")
    assert table[["job", "text", "seed", "status", "size"]].to_numpy().tolist()[1] == [
        1, "b", 1, "FINISHED", 3.0,
    ]  # fmt: skip


def test_a_server_that_forbids_a_view_does_not_fail_the_sweep(
    toy: Toy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise MlflowException("PERMISSION_DENIED: no")

    monkeypatch.setattr("quala.workflow.sweep.METRIC_NAMES", ("size",))
    with quiet_logging():
        assert launch.run(toy.workflow, ["-m", "seed=0,1"]) == 0
    assert "pages lack" not in "".join(capsys.readouterr())
    monkeypatch.setattr("mlflow.MlflowClient.set_experiment_tag", forbidden)
    with quiet_logging():
        assert launch.run(toy.workflow, ["-m", "seed=2,3"]) == 0
    told = "".join(capsys.readouterr())
    assert "pages lack what the sweep made: PERMISSION_DENIED" in told


def test_the_plan_of_a_sweep_says_which_job_it_is_of(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", "stage.second.text=b,c", "stage.third.repeat=int(interval(2,4))", "seed=3"]
    assert main(["plan", "toy.py", "hydra/sweeper=optuna", *words]) == 0
    shown = capsys.readouterr().out
    assert "this is the plan of one job: stage.second.text=b stage.third.repeat=2;" in shown
    assert toy.done == []
    (toy.folder / "conf/sweep").mkdir()
    (toy.folder / "conf/sweep/own.yaml").write_text(
        "# @package _global_\nhydra: {sweeper: {params: {stage.second.repeat: 'range(2,4)'}}}\n"
    )
    assert main(["plan", "toy.py", "-m", "+sweep=own", "seed=5,6"]) == 0
    shown = capsys.readouterr().out
    assert "this is the plan of one job: stage.second.repeat=2 seed=5;" in shown
