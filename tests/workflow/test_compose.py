"""Mistakes in a configuration come out as one sentence with the nearest name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from quala.errors import QualaError
from quala.workflow.compose import composed, one_sentence, typed

if TYPE_CHECKING:
    from conftest import Toy


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
