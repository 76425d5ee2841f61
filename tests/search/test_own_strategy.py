"""The strategy of docs/guide/add-a-search-strategy.md works as built-in ones do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from plugin_package import files_of, install

from quala.errors import QualaError
from quala.plugins import STRATEGIES
from quala.search.space import Space
from quala.search.strategy import SearchSettings, Strategy, build_strategy
from quala.search.study import run_search

SPACE = Space(4, 32)
NAMES = ["random", "quala_random.RandomSearch"]
"""By entry point, and by dotted path."""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package of the guide, installed."""
    folder = tmp_path / "package"
    folder.mkdir()
    install(folder, monkeypatch, files_of("add-a-search-strategy.md"))
    return folder


def settings(name: str) -> SearchSettings:
    return SearchSettings(
        seed=1, strategy=name, max_evaluations=1000, generations=3, population=4, mutations=3,
        crossovers=2,
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("package")
def test_it_searches_and_goes_on_after_an_interruption(
    name: str, tmp_path: Path, fake: Any
) -> None:
    whole = run_search(fake(), SPACE, settings(name), tmp_path / "whole")
    assert {one.origin for one in whole.candidates} == {"seed", "random"}
    assert len({one.lengths for one in whole.candidates}) == 2 + 3 * 5
    with pytest.raises(KeyboardInterrupt):
        run_search(fake(fail_after=8), SPACE, settings(name), tmp_path / "cut")
    assert run_search(fake(), SPACE, settings(name), tmp_path / "cut") == whole


@pytest.mark.usefixtures("package")
def test_both_names_make_the_same_strategy(cost: Any) -> None:
    made: list[Strategy] = [build_strategy(settings(name), SPACE, cost) for name in NAMES]
    assert type(made[0]) is type(made[1])
    assert "random" in STRATEGIES.names


def test_a_name_is_checked_without_torch_and_optuna(package: Path) -> None:
    code = (
        "import sys; from quala.search.strategy import SearchSettings as S; sizes = dict(seed=0, "
        "max_evaluations=9, generations=1, population=1, mutations=1, crossovers=1); "
        f"[S(strategy=name, **sizes) for name in {NAMES}]; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'optuna')))"
    )
    code = f"import sys; sys.path[:] = {[str(package), *sys.path]}; {code}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_is_refused_when_the_settings_are_made() -> None:
    with pytest.raises(QualaError, match="Did you mean `bayesian`"):
        settings("bayes")


def test_a_path_that_leads_nowhere_is_one_sentence(tmp_path: Path, fake: Any) -> None:
    with pytest.raises(QualaError, match=r"search strategy `no_such\.Name` cannot be imported"):
        run_search(fake(), SPACE, settings("no_such.Name"), tmp_path)


def test_a_path_to_something_else_is_one_sentence(tmp_path: Path, fake: Any) -> None:
    with pytest.raises(QualaError, match=r"`math\.pi` must be a class .* got float without seeds"):
        run_search(fake(), SPACE, settings("math.pi"), tmp_path)
