"""What a plan says of each stage, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quala.errors import QualaError
from quala.workflow.compose import composed, typed
from quala.workflow.plan import Plan, make_plan
from quala.workflow.sources import Sources, UnreadSources
from quala.workflow.store import Store

if TYPE_CHECKING:
    from conftest import Toy


def plan(toy: Toy, *overrides: str) -> Plan:
    workflow = toy.workflow
    settings = typed(composed(workflow, overrides), workflow)
    store = Store.open(settings.tracking)
    return make_plan(workflow, settings, store, Sources(store))


def lines(made: Plan) -> dict[str, tuple[str, str]]:
    return {name: (entry.status.value, entry.reason) for name, entry in made.entries.items()}


def test_a_plan_runs_nothing(toy: Toy) -> None:
    made = lines(plan(toy))
    assert made["first"] == ("to run", "never run")
    assert made["second"] == ("to run", "never run, after first")
    assert toy.done == []


def test_a_plan_names_what_changed(toy: Toy) -> None:
    toy.run()
    made = lines(plan(toy, "stage.second.repeat=2", "model.start=other/name"))
    assert made["first"][0] == "cached"
    assert made["second"] == ("stale", "repeat 1 -> 2")
    changes = "second changed; model.start.value some/hub-name -> other/name"
    assert made["third"][0] == "stale"
    assert set(made["third"][1].split("; ")) == set(changes.split("; "))


def test_a_plan_compares_with_the_most_similar_run(toy: Toy) -> None:
    toy.run()
    toy.run("stage.first.text=b", "stage.second.repeat=3")
    made = lines(plan(toy, "stage.second.repeat=2"))
    assert made["second"] == ("stale", "repeat 1 -> 2")


def test_a_plan_knows_interrupted_damaged_given_and_disabled_stages(toy: Toy) -> None:
    with pytest.raises(RuntimeError):
        toy.run("stage.second.fail=true")
    assert lines(plan(toy))["second"][0] == "resume"
    folder = toy.run().outcomes[0].folder
    assert folder is not None
    whole = (folder / "text.txt").read_bytes()
    (folder / "text.txt").unlink()
    assert lines(plan(toy))["first"][0] == "damaged"
    with pytest.raises(QualaError, match=r"text.txt` is missing: the folder is damaged"):
        plan(toy, f"stage.first.given={folder}")
    (folder / "text.txt").write_bytes(whole)
    made = lines(plan(toy, f"stage.first.given={folder}", "stage.second.enabled=false"))
    assert made["first"][0] == "given"
    assert made["second"][0] == "disabled"


@pytest.mark.parametrize("word", ["flow.only=secnd", "flow.force=[secnd]"])
def test_an_unknown_stage_has_a_nearest_name(toy: Toy, word: str) -> None:
    with pytest.raises(QualaError, match="Did you mean `second`"):
        plan(toy, word)


def test_until_and_since_name_a_range(toy: Toy) -> None:
    made = plan(toy, "flow.since=second", "flow.until=second")
    assert lines(made)["third"][0] == "left out"
    with pytest.raises(QualaError, match="does not depend on"):
        plan(toy, "flow.since=third", "flow.until=second")


def test_what_is_given_is_not_forced(toy: Toy) -> None:
    folder = toy.run().outcomes[1].folder
    with pytest.raises(QualaError, match="`second` is given and forced"):
        plan(toy, f"stage.second.given={folder}", "flow.force=[second]")


@pytest.mark.parametrize(
    "place", ["models:/", "models:/a@b@c", "models:/name", "runs:/zz", "runs:/", "models:/@x"]
)
def test_a_place_that_no_store_can_have_is_refused_before_it_is_asked(place: str) -> None:
    with pytest.raises(QualaError, match="must be runs:/ID, models:/NAME@ALIAS or"):
        UnreadSources().given(place)


@pytest.mark.parametrize(
    "place",
    ["0" * 32, f"runs:/{'0' * 32}", f"runs:/{'0' * 32}/output", "models:/My name@chosen",
     "models:/name/3", f"models:/m-{'0' * 32}"],
)  # fmt: skip
def test_a_place_that_a_store_may_have_is_left_to_it(place: str) -> None:
    assert UnreadSources().given(place)[0] is None


def test_a_given_checkpoint_is_looked_at_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(QualaError, match="Unknown `model_type` `gpt2`"):
        UnreadSources().given(str(tmp_path))
