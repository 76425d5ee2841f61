"""Sweeps whose jobs an Optuna study chooses: configuration, objectives, resuming, failures."""

from __future__ import annotations

import io
import json
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from commandline import quiet_logging
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hydra_plugins.quala_optuna_sweeper import SAMPLERS
from quala.errors import QualaError
from quala.search.storage import open_journal
from quala.workflow import launch
from quala.workflow.settings import TrackingConfig
from quala.workflow.store import Store
from quala.workflow.sweep_space import SearchSpace
from quala.workflow.sweeper import RESULTS, SweepOptions

if TYPE_CHECKING:
    from conftest import Toy

SIZE = ["hydra.sweeper.objectives=third.size", "hydra.sweeper.direction=maximize"]
BOTH = ["hydra.sweeper.objectives=[first.size,third.size]",
        "hydra.sweeper.direction=[minimize,maximize]"]  # fmt: skip
REPEAT = "stage.second.repeat=range(1,9)"
RESULT = Path("mlruns/hydra/sweep", RESULTS)
MINE = """
# @package _global_
defaults:
  - override /hydra/sweeper: optuna
  - override /hydra/sweeper/sampler: nsgaii
hydra:
  mode: MULTIRUN
  sweeper:
    _target_: hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper
    sampler: {seed: 7, population_size: 4, mutation_prob: null}
    objectives: [first.size, third.size]
    direction: [minimize, maximize]
    storage: sqlite:///mine.db
    study_name: mine
    n_trials: 4
    n_jobs: 2
    max_failure_rate: 0.5
    params:
      stage.second.repeat: int(interval(1, 5))
      stage.first.text: choice(a, bb, 'c d')
      seed: 3
"""


def swept(toy: Toy, *words: str, group: str = "hydra/sweeper=optuna") -> tuple[int, Any]:
    """Return the exit code of a sweep in this process, and what it prints."""
    said = io.StringIO()
    with quiet_logging(), redirect_stdout(said):
        code = launch.run(toy.workflow, ["-m", "--json", group, *words])
    return code, json.loads(said.getvalue())


def study() -> optuna.Study:
    """Return the only study of the tracking folder."""
    (path,) = Path("mlruns/sweeps").resolve().glob("*.journal")
    return optuna.load_study(study_name=path.stem, storage=open_journal(path))


def chosen(result: Any) -> list[str]:
    return [job["overrides"][-1] for job in result["jobs"]]


def tracked() -> Store:
    return Store.open(TrackingConfig(None, "mlruns", None, "toy"))


@pytest.mark.parametrize(
    ("word", "distribution"),
    [
        ("k=1,b,null,true,0.5", CategoricalDistribution([1, "b", None, True, 0.5])),
        ("k=choice('a b',[1,2])", CategoricalDistribution([r"a\ b", "[1,2]"])),
        ("k=1,2", CategoricalDistribution([1, 2])),
        ("k=sort(3,1,2)", CategoricalDistribution([1, 2, 3])),
        ("k=range(1,4)", IntDistribution(1, 4)),
        ("k=range(1,6,step=2)", IntDistribution(1, 5, step=2)),
        ("k=range(0,1,step=0.25)", FloatDistribution(0, 1, step=0.25)),
        ("k=interval(1,5)", FloatDistribution(1, 5)),
        ("k=int(interval(1,5))", IntDistribution(1, 5)),
        ("k=tag(log,interval(0.001,1))", FloatDistribution(0.001, 1, log=True)),
        ("k=tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
    ],
)
def test_an_override_is_a_distribution(word: str, distribution: Any) -> None:
    assert SearchSpace.parse([word]).varied == {"k": distribution}


def test_a_shuffled_range_is_a_choice() -> None:
    (found,) = SearchSpace.parse(["k=shuffle(range(1,4))"]).varied.values()
    assert isinstance(found, CategoricalDistribution)
    assert set(found.choices) == {1, 2, 3}


def test_the_command_counts_more_than_the_configuration() -> None:
    space = SearchSpace.parse(["a=interval(0,1)", "b=1", "~c", "a=3", "b=1,2"])
    assert space.overrides({"b": None}) == ["a=3", "~c", "b=null"]
    assert list(space.varied) == ["b"]


def test_the_choices_of_a_job_are_overrides_again() -> None:
    values = [r"a\ b", "[1,2]", True, 1e-05]
    space = SearchSpace.parse(["k=choice('a b',[1,2],true,1e-5)"])
    assert [one["k"] for one in space.edges()] == values
    for value in values:
        assert SearchSpace.parse(space.overrides({"k": value})).fixed["k"].value() in (
            "a b", [1, 2], True, 1e-05,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["TPE", "NSGAII", "GP", "Random", "QMC", "Grid"])
def test_a_sampler_is_made_by_its_target(name: str) -> None:
    space = SearchSpace.parse(["k=range(1,4)"])
    target = f"optuna.samplers.{name}Sampler"
    options = read(sampler={"_target_": target, "seed": 0, "_partial_": True, **SAMPLERS["TPE"]})
    assert type(options.make_sampler(0, space)).__name__ == f"{name}Sampler"


def test_a_sampler_of_quala_is_made_by_its_target(toy: Toy) -> None:
    sampler = "hydra.sweeper.sampler._target_=quala.search.EvolutionarySampler"
    _, found = swept(toy, *SIZE, REPEAT, sampler, "hydra.sweeper.n_trials=2")
    assert len({job["overrides"][-1] for job in found["jobs"]}) == 2


def read(**changes: Any) -> SweepOptions:
    options = {
        "objectives": "f1", "direction": "maximize", "sampler": {}, "storage": None,
        "study_name": None, "params": None, "custom_search_space": None, "n_trials": 2,
        "n_jobs": 1, "max_failure_rate": 0.0,
    }  # fmt: skip
    return SweepOptions.read({**options, **changes})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["hydra.sweeper.direction=maximize"], r"`hydra.sweeper.objectives` must name a metric"),
        (["hydra.sweeper.objectives=size"], r"`hydra.sweeper.direction` .*, got 0 for 1\."),
        (["hydra.sweeper.objectives=size", "hydra.sweeper.direction=up"],
         r"Unknown value of `hydra.sweeper.direction` `up`"),
        (["hydra.sweeper.objectives=siz", "hydra.sweeper.direction=minimize"],
         r"Unknown objective `siz`. Did you mean `size`\? Allowed: first.size, second.size, size"),
        (["hydra.sweeper.objectives=thrid.size", "hydra.sweeper.direction=minimize"],
         r"Unknown objective `thrid.size`. Did you mean `third.size`"),
        ([*SIZE, "hydra.sweeper.n_trials=0"], r"`hydra.sweeper.n_trials` must be at least 1"),
        ([*SIZE, "hydra.sweeper.n_trails=3"], r"hydra.sweeper.n_trails"),
        ([*SIZE, "hydra.sweeper.max_failure_rate=2"], r"`hydra.sweeper.max_failure_rate` must be"),
        ([*SIZE, "+hydra.sweeper.sampler.sed=1"], r"Unknown argument of .*TPESampler `sed`"),
        ([*SIZE, "hydra/sweeper/sampler=gird"], r"Unknown choice for `hydra/sweeper/sampler`"),
        ([*SIZE, "hydra/sweeper/sampler=grid", "stage.second.sleep=interval(0,1)"],
         r"A grid needs a range or choices for `stage.second.sleep`"),
        ([*SIZE, "hydra.sweeper.sampler._target_=optuna.samplers.Nope"],
         r"The sampler `optuna.samplers.Nope` cannot be imp"),
        ([*SIZE, "hydra.sweeper.sampler._target_=builtins.print"], r"must be a subclass of optu"),
        ([*SIZE, "hydra.sweeper.custom_search_space=no.space"], r"The search space `no.spa"),
        ([*SIZE, "hydra/sweeper/sampler=cmaes"], r"CmaEsSampler cannot .*`pip install cmaes`"),
        ([*BOTH, "hydra/sweeper/sampler=cmaes"], r"CmaEsSampler cannot choose values for"),
        ([*SIZE, "hydra.sweeper.storage=mysterydb://x"], r"`hydra.sweeper.storage` must be"),
        ([*SIZE, "stage.second.repeat=interval(5,1)"], r"is no search space"),
        ([*SIZE, "stage.second.repat=range(1,3)"], r"repat`?\. Did you mean `stage.second.repeat"),
        ([*SIZE, "stage.second.repeat=choice(1,two)"], r"`stage.second.repeat` cannot have this"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_before_work(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str
) -> None:
    for name in ("cmaes", "psycopg2"):  # as where they are not installed
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(QualaError, match=sentence):
        swept(toy, REPEAT, *words)
    assert toy.done == []
    assert tracked().find({"quala.kind": "sweep"}) == []


def test_a_sweep_without_values_is_refused(toy: Toy) -> None:
    with pytest.raises(QualaError, match=r"Nothing varies in this sweep"):
        swept(toy, *SIZE, "seed=3")


def test_a_sweep_finds_the_best_and_goes_on(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    code, first = swept(toy, *SIZE, REPEAT, "hydra.sweeper.n_trials=3")
    assert (code, len(first["jobs"])) == (0, 3)
    values = [int(word.partition("=")[2]) for word in chosen(first)]
    found = OmegaConf.load(RESULT)
    assert found == {
        "name": "optuna",
        "best_params": {"stage.second.repeat": max(values)},
        "best_value": max(values) + 2.0,
    }
    best = f"stage.second.repeat={max(values)}"
    assert re.search(
        rf"Best: trial \d, third.size {max(values) + 2}, {best}", capsys.readouterr().err
    )
    done = toy.done
    _, again = swept(toy, *SIZE, REPEAT, "hydra.sweeper.n_trials=3")
    assert again == first
    assert toy.done == done
    _, more = swept(toy, *SIZE, REPEAT, "hydra.sweeper.n_trials=4")
    assert more["best"] == [
        {
            "trial": study().best_trial.number,
            "values": {"third.size": study().best_value},
            "params": study().best_params,
            "run_id": more["jobs"][study().best_trial.number]["run_id"],
        }
    ]
    assert (more["sweep"], more["jobs"][:3], len(more["jobs"])) == (
        first["sweep"], first["jobs"], 4,
    )  # fmt: skip
    store = tracked()
    run = store.client.get_run(first["sweep"])
    assert (run.info.status, run.data.tags["quala.study"]) == ("FINISHED", study().study_name)
    assert run.info.run_name == "toy sweep: repeat"
    assert run.data.metrics["third.size"] == study().best_value
    assert RESULTS in [one.path for one in store.client.list_artifacts(first["sweep"])]
    children = store.find({"mlflow.parentRunId": first["sweep"], "quala.kind": "workflow"})
    assert {one.info.run_id for one in children} == {job["run_id"] for job in more["jobs"]}
    assert study().metric_names == ["third.size"]
    with pytest.raises(QualaError, match=r"The study `.*` is of other objectives"):
        swept(toy, *SIZE, REPEAT, "hydra.sweeper.direction=minimize",
              f"hydra.sweeper.study_name={study().study_name}")  # fmt: skip


def test_the_plugins_configuration_works(toy: Toy) -> None:
    (toy.folder / "conf/sweep").mkdir()
    (toy.folder / "conf/sweep/mine.yaml").write_text(MINE)
    code, found = swept(toy, group="+sweep=mine")
    assert (code, len(found["jobs"])) == (0, 4)
    assert all("seed=3" in job["overrides"] for job in found["jobs"])
    mine = optuna.load_study(study_name="mine", storage="sqlite:///mine.db")
    front = [{"params": one.params, "values": one.values} for one in mine.best_trials]
    assert OmegaConf.load(RESULT) == {"name": "optuna", "solutions": front}
    for one in front:
        text, repeat = (one["params"][f"stage.{k}"] for k in ("first.text", "second.repeat"))
        size = len(text.replace("\\", ""))
        assert one["values"] == [size, size + repeat + 1]
    assert not list(Path("mlruns").glob("sweeps/*"))


def test_a_grid_is_every_point_once(toy: Toy) -> None:
    grid = ["hydra/sweeper/sampler=grid", "stage.second.text=b,cc", "seed=range(0,1)"]
    _, found = swept(toy, *SIZE, *grid, "hydra.sweeper.n_jobs=3")
    assert len({tuple(job["overrides"]) for job in found["jobs"]}) == 4
    assert len(found["jobs"]) == 4
    assert swept(toy, *SIZE, *grid)[1] == found


def test_an_interrupted_sweep_goes_on_as_if_nothing_had_been(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*BOTH, "hydra.sweeper.n_trials=3", "hydra/sweeper/sampler=random"]
    words += [REPEAT, "stage.first.repeat=int(interval(1,9))"]
    whole = swept(toy, *words, "hydra.sweeper.study_name=whole")[1]
    assert len({tuple(job["overrides"]) for job in whole["jobs"]}) == 3
    begun, run_workflow = list[Any](), launch.run_workflow

    def interrupted(*arguments: Any) -> Any:
        begun.append(arguments)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return run_workflow(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(launch, "run_workflow", interrupted)
        with pytest.raises(KeyboardInterrupt):
            swept(toy, *words, "hydra.sweeper.study_name=parts")
    assert len(begun) == 2
    # The same process goes on here, which is not dead.
    monkeypatch.setattr("quala.workflow.sweeper.abandoned", lambda trial: True)
    parts = swept(toy, *words, "hydra.sweeper.study_name=parts")[1]
    assert [job["overrides"] for job in parts["jobs"]] == [
        job["overrides"] for job in whole["jobs"]
    ]
    assert {job["status"] for job in parts["jobs"]} == {"FINISHED"}


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the jobs with `c` as their second text fail."""
    run_workflow = launch.run_workflow

    def told(workflow: Any, invocation: Any) -> Any:
        if "stage.second.text=c" in invocation.overrides:
            raise RuntimeError("told to fail")
        return run_workflow(workflow, invocation)

    monkeypatch.setattr(launch, "run_workflow", told)


@pytest.mark.usefixtures("failing")
def test_failed_trials_are_told_and_counted(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SIZE, "hydra/sweeper/sampler=grid", "stage.second.text=b,c"]
    code, found = swept(toy, *words, "hydra.sweeper.n_jobs=2")
    assert (code, len(found["jobs"])) == (1, 2)
    said = capsys.readouterr().err
    assert re.search(r"Job \d failed: told to fail", said)
    assert "1 of 2 trials failed, `hydra.sweeper.max_failure_rate` is 0.0" in said
    states = {one.params["stage.second.text"]: one for one in study().trials}
    assert [states[key].state.name for key in "bc"] == ["COMPLETE", "FAIL"]
    assert states["c"].user_attrs["error"] == "RuntimeError: told to fail"
    assert OmegaConf.load(RESULT).best_params == {"stage.second.text": "b"}


@pytest.mark.usefixtures("failing")
def test_failures_within_the_rate_are_no_error(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = [*SIZE, "hydra/sweeper/sampler=grid", "stage.second.text=b,c", "hydra.sweeper.n_jobs=2"]
    code, found = swept(toy, *grid, "hydra.sweeper.max_failure_rate=0.5")
    assert (code, len(found["jobs"]), len(found["best"])) == (0, 2, 1)
    said = "1 of 2 trials failed, within `hydra.sweeper.max_failure_rate` 0.5: the exit code is 0."
    assert said in capsys.readouterr().err
    run = tracked().client.get_run(found["sweep"])
    assert (run.info.status, run.data.metrics["jobs"], run.data.metrics["failed"]) == (
        "FINISHED", 2, 1,
    )  # fmt: skip


@pytest.mark.parametrize(("rate", "jobs"), [(0.0, 1), (1.0, 2)])
def test_a_sweep_goes_on_up_to_a_rate_of_failures(toy: Toy, rate: float, jobs: int) -> None:
    options = [f"hydra.sweeper.max_failure_rate={rate}", "hydra.sweeper.n_trials=2"]
    code, found = swept(toy, *SIZE, *options, "stage.second.fail=true", REPEAT)
    assert (code, len(found["jobs"])) == (1, jobs)


def test_an_objective_that_no_run_has_ends_the_sweep(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(QualaError, match=r"Unknown objective `third.sise`. Did you mean `third."):
        swept(
            toy, "hydra.sweeper.objectives=third.sise", "hydra.sweeper.direction=minimize", REPEAT
        )
    assert "No run has a metric `third.sise` yet" in capsys.readouterr().err
    assert toy.done == ["first", "second", "third"]


def test_a_space_of_ones_own(toy: Toy) -> None:
    (toy.folder / "toy_space.py").write_text(
        "def configure(config, trial):\n"
        "    low = trial.params['stage.second.repeat']\n"
        "    trial.suggest_int('stage.third.repeat', low, low + config.seed)\n"
    )
    own = "hydra.sweeper.custom_search_space=toy_space.configure"
    _, found = swept(toy, *SIZE, REPEAT, own, "hydra.sweeper.n_trials=2", "seed=1")
    for job in found["jobs"]:
        second, third = (int(word.partition("=")[2]) for word in job["overrides"][-2:])
        assert third in (second, second + 1)
    with pytest.raises(QualaError, match=r"`stage.third.repeat` is suggested .* and given too"):
        swept(toy, *SIZE, REPEAT, own, "stage.third.repeat=2")


def test_trials_run_beside_each_other_and_one_may_be_killed(toy: Toy) -> None:
    path = toy.folder / "toy_stages.py"
    dead = "    if config.text == 'dead':\n        os._exit(9)\n    if config.fail:"
    path.write_text(path.read_text().replace("    if config.fail:", dead))
    words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2"]
    grid = ["hydra/sweeper/sampler=grid", "stage.second.text=b,c,dead"]
    process = toy.start("-m", "--json", "hydra/sweeper=optuna", *SIZE, *words, *grid,
                        "hydra.sweeper.max_failure_rate=1")  # fmt: skip
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert " of 3 trials failed, within `hydra.sweeper.max_failure_rate` 1.0" in err
    jobs = {job["overrides"][-1].partition("=")[2]: job for job in json.loads(out)["jobs"]}
    assert (len(jobs), jobs["dead"]["status"]) == (3, "FAILED")
    assert "a process of the launcher ended" in jobs["dead"]["error"]
    states = {one.params["stage.second.text"]: one.state.name for one in study().trials}
    assert states["dead"] == "FAIL"
    # The trial beside it may have ended with it.
    assert "COMPLETE" in states.values()
