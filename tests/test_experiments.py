"""Every recipe and option of conf/ composes to typed settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from quala.config import Settings
from quala.errors import QualaError
from quala.workflow import Workflow
from quala.workflow.compose import composed, one_sentence, typed
from quala.workflow.resources import conf_folder, find_workflow

CONF = conf_folder()
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
GROUPS = ("data", "model", "tracking")
OPTIONS = [
    f"{file.parent.relative_to(CONF)}={file.stem}"
    for folder in (*(CONF / group for group in GROUPS), *sorted((CONF / "stage").iterdir()))
    for file in sorted(folder.glob("*.yaml"))
]
# What a recipe leaves open, by what a person would give.
NEEDED = {"squad_cpu": ["data.path=squad"], "tracking=server": ["tracking.uri=http://host:5000"]}


@pytest.fixture(scope="module")
def workflow() -> Workflow:
    return find_workflow("quala_minilm")


def settings(workflow: Workflow, *overrides: str) -> Settings:
    with one_sentence(workflow):
        return typed(composed(workflow, overrides), workflow)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_composes(workflow: Workflow, experiment: str) -> None:
    needed = NEEDED.get(experiment, [])
    found = settings(workflow, f"experiment={experiment}", *needed)
    assert found.stages.keys() == workflow.stages.keys()
    for name, stage in workflow.stages.items():
        assert isinstance(found.stages[name], stage.config)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_composes(workflow: Workflow, option: str) -> None:
    settings(workflow, "~experiment", option, *NEEDED.get(option, []))


def test_every_stage_has_defaults(workflow: Workflow) -> None:
    assert {f"stage/{name}=default" for name in workflow.stages} <= set(OPTIONS)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["experiment=squad_cpu"], "either `path` or `name`"),
        (["tracking=server"], "`tracking.uri` has no value"),
        (["experiment=squat"], "Did you mean `squad`"),
        (["stage/quantize=papers"], "Did you mean `paper`"),
        (["stage.length_adapt.sampler=few_drop"], "Did you mean `few_drops`"),
        (["stage/quantize=paper", "stage.quantize.method=qat"], "would learn nothing"),
    ],
)
def test_what_is_missing_or_wrong_is_one_sentence(
    workflow: Workflow, overrides: list[str], sentence: str
) -> None:
    with pytest.raises(QualaError, match=sentence):
        settings(workflow, *overrides)


def test_the_paper_recipe_is_the_published_one(workflow: Workflow) -> None:
    found = settings(workflow, "experiment=squad")
    adapt, integer, search = (
        found.stages[name] for name in ("length_adapt", "quantize", "search")
    )
    assert (adapt.significance, adapt.semantics, adapt.direction) == (
        "column_sum", "reference", "reverse",
    )  # fmt: skip
    assert (adapt.bound, adapt.layer_drop, adapt.num_sandwich) == (0.2, 0.2, 2)
    assert (integer.method, search.strategy) == ("ptq", "published")
    assert found.data.pad_to_max
    assert found.data.max_length == 384


@pytest.mark.parametrize("experiment", ["demo", "squad_cpu", "glue"])
def test_a_plan_of_local_sources_needs_no_network(
    experiment: str,
    migrated_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from quala.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns").mkdir()
    shutil.copy(migrated_database, tmp_path / "mlruns/mlflow.db")
    given = {"demo": [], "squad_cpu": ["data.path=mine"], "glue": ["data.path=mine"]}
    (tmp_path / "mine").mkdir()
    for split in ("train", "validation"):
        (tmp_path / f"mine/{split}.tsv").write_text("sentence\tlabel\nthe first\t0\n")
    words = [*given[experiment], *(["data.name=null"] if experiment == "glue" else [])]
    assert main(["plan", "quala_minilm", f"experiment={experiment}", *words, "--json"]) == 0
    stages = {one["stage"]: one["status"] for one in json.loads(capsys.readouterr().out)["stages"]}
    assert set(stages.values()) <= {"to run", "disabled"}
    assert stages["finetune"] == "to run"
    assert (stages["distill"] == "disabled") == (experiment != "demo")
