"""A workflow of one's own: of an installed package, by a dotted name, from a script."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from commandline import quiet_logging

from quala.cli.entry import main
from quala.plugins import WORKFLOWS

if TYPE_CHECKING:
    from conftest import Toy


@pytest.fixture
def installed(toy: Toy) -> Iterator[Toy]:
    """The toy workflow in a package that declares it as `grow`."""
    folder = toy.folder / "toy_package-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-package\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[quala.workflows]\ngrow = toy_package.flows:toy\nwrong = toy_package.flows:STAGES\n"
    )
    package = toy.folder / "toy_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    conf = 'Path(__file__).parent / "conf"'
    text = toy.script.read_text()
    assert conf in text
    moved = text.replace(conf, 'Path(__file__).parents[1] / "conf"')
    (package / "names.py").write_text("NAMES = ('first', 'second', 'third')\n")
    moved = moved.replace('("first", "second", "third")', "NAMES")
    moved = moved.replace(
        "\nfrom quala.workflow", "\nfrom .names import NAMES\nfrom quala.workflow"
    )
    (package / "flows.py").write_text(moved)
    vars(WORKFLOWS).pop("_installed", None)
    yield toy
    vars(WORKFLOWS).pop("_installed", None)


def statuses(capsys: pytest.CaptureFixture[str], *words: str) -> set[str]:
    with quiet_logging():
        assert main([*words, "--json"]) == 0
    return {stage["status"] for stage in json.loads(capsys.readouterr().out)["stages"]}


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_an_installed_workflow_is_in_the_help(
    installed: Toy, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert main([verb, "--help"]) == 0
    assert "xtc, grow, wrong\n" in capsys.readouterr().out


def test_an_installed_workflow_runs_by_its_name(
    installed: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert statuses(capsys, "run", "grow") == {"done"}
    assert statuses(capsys, "plan", "grow") == {"cached"}


def test_it_has_a_dotted_name_too(installed: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert statuses(capsys, "plan", "toy_package.flows.toy") == {"to run"}


def test_a_script_runs_by_its_path(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert statuses(capsys, "run", str(Path("toy.py"))) == {"done"}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("wrong", "must be a function with `@workflow`"),
        ("grov", "Did you mean `grow`"),
        ("toy_package.flows.toys", "cannot be imported"),
        ("nowhere/toy.py", "There is no workflow script"),
    ],
)
def test_what_is_no_workflow_is_one_sentence(
    installed: Toy, capsys: pytest.CaptureFixture[str], name: str, sentence: str
) -> None:
    assert main(["plan", name]) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1
