"""Given outputs of other data and models: said, or refused where figures would be mixed up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quala.errors import QualaError
from quala.workflow.compose import composed, typed
from quala.workflow.plan import make_plan
from quala.workflow.sources import Sources
from quala.workflow.store import Store

if TYPE_CHECKING:
    from conftest import Toy

FLOW = """
    data = flow.data()
    first = flow.run("first", data=data)
    second = flow.run("second", data=data, model=first)
    flow.run("third", data=data, model=first, scores=second)
"""


@pytest.fixture
def joined(toy: Toy, request: pytest.FixtureRequest) -> Toy:
    """`second` has figures of the model `first`, and `third` joins them."""
    text = toy.script.read_text()
    head, _, rest = text.partition('    first = flow.run("first")')
    text = head + FLOW + rest[rest.index("\n\nif __name__") :]
    exact = getattr(request, "param", False)
    text = text.replace('("size",))', f'("size",), about=("model",), exact={exact})')
    toy.script.write_text(text)
    return toy


def made(toy: Toy, *words: str) -> Path:
    folder = toy.run(*words).outcomes[1].folder
    assert folder is not None
    return folder


def notes(toy: Toy, *words: str) -> list[str]:
    workflow = toy.workflow
    settings = typed(composed(workflow, words), workflow)
    store = Store.open(settings.tracking)
    return list(make_plan(workflow, settings, store, Sources(store)).notes)


def test_an_output_of_the_same_model_and_data_is_taken(
    joined: Toy, caplog: pytest.LogCaptureFixture
) -> None:
    folder = made(joined)
    origin = json.loads((folder / "origin.json").read_text())
    assert origin.keys() == {"data", "model"}
    assert origin["data"]["detail"]["max_length"] == 384
    caplog.clear()
    joined.run(f"stage.second.given={folder}")
    assert not caplog.records


def test_scores_of_another_model_are_said(joined: Toy, caplog: pytest.LogCaptureFixture) -> None:
    folder = made(joined)
    joined.run(f"stage.second.given={folder}", "stage.first.text=b")
    told = "`stage.second.given` was made with another `model` (content); its scores are of that"
    assert told in caplog.text


@pytest.mark.parametrize("joined", [True], indirect=True)
def test_exact_figures_of_another_model_are_refused(joined: Toy) -> None:
    folder = made(joined)
    joined.run(f"stage.second.given={folder}", "stage.third.text=b")
    with pytest.raises(QualaError, match=r"another `model` \(content\): its figures are not"):
        joined.run(f"stage.second.given={folder}", "stage.first.text=b")


@pytest.mark.parametrize("joined", [True], indirect=True)
def test_exact_figures_of_other_data_are_refused_before_anything_runs(joined: Toy) -> None:
    folder = made(joined)
    done = list(joined.done)
    with pytest.raises(QualaError, match=r"another `data` \(max_test None -> 20\)"):
        joined.run(f"stage.second.given={folder}", "data.max_test=20")
    assert joined.done == done


@pytest.mark.parametrize("joined", [True], indirect=True)
def test_the_plan_compares_a_given_output_with_stored_models(joined: Toy) -> None:
    folder = made(joined)
    assert notes(joined, f"stage.second.given={folder}") == []
    (told,) = notes(joined, f"stage.second.given={folder}", "stage.first.text=b")
    assert told.startswith("`stage.second.given` is refused once `first` has run, unless its fig")
    joined.run("stage.first.text=b")
    with pytest.raises(QualaError, match=r"another `model` \(content\): its figures are not"):
        notes(joined, f"stage.second.given={folder}", "stage.first.text=b")


def test_other_data_are_named_by_the_plan(joined: Toy) -> None:
    folder = made(joined)
    (told,) = notes(joined, f"stage.second.given={folder}", "data.max_length=256")
    assert "another `data` (max_length 384 -> 256); its scores are of that one" in told
    with pytest.raises(QualaError, match=r"subset None -> sst2"):
        notes(joined, f"stage.second.given={folder}", "data.subset=sst2")


def test_an_output_of_an_older_version_does_not_say(joined: Toy) -> None:
    folder = made(joined)
    for name in ("origin.json", "manifest.json"):
        (folder / name).unlink()
    (told,) = notes(joined, f"stage.second.given={folder}")
    assert told == "`stage.second.given` does not say of which model and data it is."


def test_a_search_of_another_length_is_refused_by_the_plan(found: Path) -> None:
    from quala.data.spec import DataSpec
    from quala.stage import imported
    from quala.stages import STAGES

    check = imported(STAGES["search"].fits)
    check(found, DataSpec(task="squad", name="demo", max_length=128, doc_stride=32))
    with pytest.raises(QualaError, match="search again"):
        check(found, DataSpec(task="squad", name="demo", max_length=256))
