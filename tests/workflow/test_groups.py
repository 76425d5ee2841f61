"""The groups of a configuration: a line on each option, the help of a workflow, own folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quala.cli.entry import main
from quala.errors import QualaError
from quala.workflow.groups import (
    COLUMNS,
    Where,
    conf_folders,
    experiments_of,
    options_of,
    summary_of,
    where_of,
    workflow_help,
)
from quala.workflow.script import conf_folder, find_workflow, workflow_scripts

if TYPE_CHECKING:
    from conftest import Toy

CONF = conf_folder()
FILES = sorted(file for file in CONF.rglob("*.yaml") if "local" not in file.parts)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(CONF).as_posix())
def test_every_configuration_begins_with_a_line_on_what_it_is(file: Path) -> None:
    first = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip("# ")]
    told = first[1] if first[0].startswith("# @package") else first[0]
    assert told.startswith("# ")
    assert not told.startswith("# quala run")
    assert summary_of(file) == told.removeprefix("# ").removesuffix(".")


@pytest.mark.parametrize("name", workflow_scripts())
def test_the_help_of_a_workflow_has_a_line_for_each_option(name: str) -> None:
    workflow = find_workflow(name)
    lines = workflow_help(workflow).splitlines()
    assert max(map(len, lines)) <= COLUMNS
    for stage in workflow.stages.values():
        assert any(line.split(maxsplit=1) == [stage.name, stage.summary] for line in lines)
    groups = ["data", "model", "tracking", *(f"stage/{stage}" for stage in workflow.stages)]
    options = [option for group in groups for option in options_of([CONF], group).items()]
    for option in [*options, *experiments_of(workflow, [CONF]).items()]:
        assert any(line.split(maxsplit=1) == [*option] for line in lines), option
    other = set(workflow.known_stages) - set(workflow.stages)
    assert not [line for line in lines if line.startswith(tuple(f"stage/{one}=" for one in other))]


def test_a_workflow_of_experiments_of_its_own_lists_only_those() -> None:
    assert set(experiments_of(find_workflow("kdlsq"), [CONF])) == {
        f"kdlsq/{name}" for name in ("demo", "glue_cpu", "paper", "squad_cpu")
    }
    assert "demo" in experiments_of(find_workflow("quala_minilm"), [CONF])


def test_help_explains_the_options_of_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "kdlsq", "--help", "stage.distill", "flow.only"]) == 0
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= COLUMNS
    assert "stage.distill.keep_map: uniform, tinybert, xtc, top, bottom, symmetric\n" in told
    assert "stage.distill.temperature: number, at least 0.01, at most 1000\n    Divides" in told
    assert told.endswith(
        "flow.only: text or null\n    Only this stage; its inputs must exist or be given.\n"
    )
    assert main(["run", "kdlsq", "--help", "model.teacher"]) == 0
    assert capsys.readouterr().out.startswith("model: mapping of texts")
    assert main(["run", "kdlsq", "--help", "stage.distil"]) == 2
    assert "Did you mean `stage.distill`?" in capsys.readouterr().err


def test_options_of_hydra_are_taken_out_of_a_command_line(tmp_path: Path) -> None:
    words = ["-m", f"--config-dir={tmp_path}", "seed=1,2", "-cn", "mine", "progress=false"]
    where, rest = where_of(words)
    assert where == Where(str(tmp_path), "mine")
    assert rest == ["-m", "seed=1,2", "progress=false"]
    assert where.words == ["--config-dir", str(tmp_path), "--config-name", "mine"]
    with pytest.raises(QualaError, match=r"^`--config-dir` needs a value\.$"):
        where_of(["--config-dir"])
    with pytest.raises(QualaError, match=r"^There is no folder `.*nope` for `--config-dir`\.$"):
        where_of(["-cd", str(tmp_path / "nope")])


@pytest.fixture
def own(toy: Toy) -> Path:
    """Return a folder with an experiment, a data set and a preset of a stage."""
    files = {
        "experiment/mine.yaml": "# @package _global_\n# My texts.\ndefaults:\n"
        "  - override /data: mine\n  - override /stage/first: long\nmodel: {start: my/model}\n",
        "data/mine.yaml": "# My data.\ntask: squad\nname: mine\n",
        "stage/first/long.yaml": "# A long text.\nrepeat: 5\n",
        "mine.yaml": "defaults:\n  - config\n  - _self_\nhydra:\n"
        "  searchpath: [file://own]\nseed: 7\n",
    }
    for name, text in files.items():
        file = toy.folder / "own" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    config = toy.folder / "conf/config.yaml"
    groups = "  - data: demo\n  - stage/first: short\n  - experiment: null"
    text = config.read_text().replace("  - experiment: null", groups)
    config.write_text(text.replace("data: {task: squad, name: demo}\n", ""))
    for name, text in {
        "data/demo": "task: squad\nname: demo",
        "stage/first/short": "repeat: 1",
    }.items():
        file = toy.folder / "conf" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# Ours.\n{text}\n")
    (toy.folder / "ownpkg").mkdir()
    (toy.folder / "ownpkg/__init__.py").touch()
    (toy.folder / "own").rename(toy.folder / "ownpkg/conf")
    (toy.folder / "ownpkg/conf/__init__.py").touch()
    (toy.folder / "own").symlink_to("ownpkg/conf")
    return toy.folder / "own"


PLACES = [
    ["--config-dir", "own"],
    ["hydra.searchpath=[file://own]"],
    ["hydra.searchpath=[pkg://ownpkg.conf]"],
    ["--config-dir", "own", "--config-name", "mine"],
]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("place", PLACES, ids=" ".join)
def test_own_configurations_are_found_by_run_and_by_plan(
    toy: Toy, place: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "toy.py", *place, "experiment=mine"]
    assert main([*words, "--cfg", "job"]) == 0
    told = capsys.readouterr().out
    assert all(one in told for one in ("name: mine", "repeat: 5", "start: my/model"))
    assert f"seed: {7 if 'mine' in place else 0}\n" in told
    assert main(["plan", *words[1:]]) == 0
    assert "first" in capsys.readouterr().out
    assert main([*words, "--help"]) == 0
    assert "  mine  My texts\n" in capsys.readouterr().out
    assert main(words) == 0
    assert (toy.folder / "log.txt").read_text().split() == ["first", "second", "third"]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("verb", ["run", "plan"])
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--config-dir"], "`--config-dir` needs a value."),
        (["--config-dir", "nope"], "There is no folder `nope` for `--config-dir`."),
        (
            ["hydra.searchpath=[file://nope]"],
            "There is no folder for `file://nope` of `hydra.searchpath`.",
        ),
        (
            ["hydra.searchpath=[pkg://no.conf]"],
            "There is no package with an `__init__.py` for `pkg://no.conf` of `hydra.searchpath`.",
        ),
        (
            ["--config-dir", "own", "experiment=min"],
            "Unknown choice for `experiment` `min`. Did you mean `mine`? Allowed: mine.",
        ),
    ],
)
def test_what_is_not_there_is_refused_alike(
    verb: str, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "toy.py", *words]) == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"


def test_a_search_path_in_an_experiment_is_refused(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "experiment/path.yaml").write_text(
        "# @package _global_\nhydra:\n  searchpath: [file://own]\n"
    )
    assert main(["plan", "toy.py", "--config-dir", "own", "experiment=path"]) == 2
    assert "in the primary configuration (`--config-name`)" in capsys.readouterr().err


def test_own_experiments_fit_a_workflow_of_experiments_of_its_own(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "experiment/short.yaml").write_text("# @package _global_\n# Short.\nseed: 9\n")
    words = ["--config-dir", "own", "experiment=short", "--cfg", "job"]
    assert main(["run", "kdlsq", *words]) == 0
    assert "seed: 9\n" in capsys.readouterr().out
    folders = conf_folders(find_workflow("kdlsq"), Where("own"))
    assert {"short", "kdlsq/demo"} <= set(experiments_of(find_workflow("kdlsq"), folders))
