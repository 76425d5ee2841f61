"""Mistakes in a configuration come out as one sentence with the nearest name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from quala.errors import QualaError
from quala.workflow.compose import composed, one_sentence, typed, with_experiment

if TYPE_CHECKING:
    from conftest import Toy

    from quala.workflow import Workflow


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("sed=3", "Unknown configuration key `sed`. Did you mean `seed`"),
        ("stage.secnd.text=b", "Did you mean `stage.second`"),
        ("stage.second.txt=b", "Did you mean `stage.second.text`"),
        ("+stage.second.txt=b", "Did you mean `text`"),
        ("seed=abc", "`seed` cannot have this value: .*abc"),
        ("stage.first.repeat=many", "`stage.first.repeat` cannot have this value"),
        ("data.task=squid", "Did you mean `squad`"),
        ("seed=???", "`seed` has no value"),
        ("seed=[1", "not an override"),
        ("seed=${sed}", "sed"),
    ],
)
def test_a_mistake_is_one_sentence(toy: Toy, override: str, sentence: str) -> None:
    workflow = toy.workflow
    with pytest.raises(QualaError, match=sentence) as raised, one_sentence(workflow):
        typed(composed(workflow, [override]), workflow)
    assert "\n" not in str(raised.value)


def test_a_group_choice_has_a_nearest_name(toy: Toy) -> None:
    folder = toy.folder / "conf/experiment"
    folder.mkdir()
    (folder / "tiny.yaml").write_text("# @package _global_\nseed: 7\n")
    workflow = toy.workflow
    assert typed(composed(workflow, ["experiment=tiny"]), workflow).seed == 7
    with pytest.raises(QualaError, match="Did you mean `tiny`"), one_sentence(workflow):
        composed(workflow, ["experiment=tny"])


def test_an_unknown_key_in_a_file_is_named(toy: Toy) -> None:
    folder = toy.folder / "conf/experiment"
    folder.mkdir()
    (folder / "bad.yaml").write_text("# @package _global_\nstage: {first: {txt: b}}\n")
    workflow = toy.workflow
    with pytest.raises(QualaError, match="txt"), one_sentence(workflow):
        composed(workflow, ["experiment=bad"])


@pytest.fixture
def own(toy: Toy) -> Workflow:
    """The toy workflow with experiments of its own."""
    folder = toy.folder / "conf/experiment/toy"
    folder.mkdir(parents=True)
    for name, seed in (("demo", 7), ("large", 8)):
        (folder / f"{name}.yaml").write_text(f"# @package _global_\nseed: {seed}\n")
    (toy.folder / "conf/experiment/common.yaml").write_text("# @package _global_\nseed: 9\n")
    return toy.workflow


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ([], ["experiment=toy/demo"]),
        (["seed=3"], ["experiment=toy/demo", "seed=3"]),
        (["-m", "seed=3,4"], ["-m", "experiment=toy/demo", "seed=3,4"]),
        (["-m", "~data"], ["-m", "experiment=toy/demo", "~data"]),
        (["--cfg", "job"], ["experiment=toy/demo", "--cfg", "job"]),
        (["--cfg", "job", "seed=3"], ["--cfg", "job", "experiment=toy/demo", "seed=3"]),
        (["experiment=toy/large"], ["experiment=toy/large"]),
        (["-m", "experiment=toy/demo,toy/large"], ["-m", "experiment=toy/demo,toy/large"]),
        (["~experiment"], ["~experiment"]),
    ],
)
def test_a_workflow_starts_from_its_own_demo(
    own: Workflow, words: list[str], completed: list[str]
) -> None:
    assert with_experiment(own, words) == completed


def test_the_own_demo_is_composed(own: Workflow) -> None:
    assert [typed(composed(own, words), own).seed for words in ([], ["~experiment"])] == [7, 0]


def test_a_workflow_without_experiments_starts_from_none(toy: Toy) -> None:
    assert with_experiment(toy.workflow, ["seed=3"]) == ["seed=3"]


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ("common", "Unknown experiment of `toy` `common`. .*Allowed: toy/demo, toy/large"),
        ("toy/demo,large", "Unknown experiment of `toy` `large`. Did you mean `toy/large`"),
        ("toy/larg", "Unknown experiment `toy/larg`. Did you mean `toy/large`"),
    ],
)
def test_an_experiment_of_another_workflow_is_refused(
    own: Workflow, choice: str, sentence: str
) -> None:
    with pytest.raises(QualaError, match=sentence), one_sentence(own):
        composed(own, [f"experiment={choice}"])
