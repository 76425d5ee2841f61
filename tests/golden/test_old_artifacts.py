"""What an older version left is read, reused and gone on with by this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from golden.stored import (
    ASKED,
    CHECKPOINTS,
    CONTEXT,
    QUESTION,
    RECIPES,
    RECORDED,
    REVISED,
    SEARCHES,
    STAGES,
    Stored,
    logits,
    near,
    output,
    predictions,
    reply,
    statuses,
    unpack,
)

recorded = json.loads(RECORDED.read_text())


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """The store of an older version; tests that share it add nothing to it."""
    return unpack(tmp_path_factory.mktemp("store"))


@pytest.fixture
def own(tmp_path: Path) -> Stored:
    """A copy that a test may add to."""
    return unpack(tmp_path)


@pytest.fixture(scope="module")
def outputs(stored: Stored) -> dict[str, Any]:
    """What the finished workflow says of its stages."""
    return stored.run("quala_minilm")


def run_of(stored: Stored, recipe: str, stage: str) -> Path:
    """Return the output of a stage by the id that its run had."""
    run = recorded["outputs"][recipe][stage]
    return stored.folder / f"mlruns/artifacts/quala/{run}/artifacts/output"


def test_the_same_command_computes_nothing(outputs: Any) -> None:
    assert outputs["reused"]
    assert outputs["run_id"] == recorded["run"]
    assert statuses(outputs) == dict.fromkeys(STAGES, "cached")


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_finished_stage_is_found(stored: Stored, recipe: str) -> None:
    plan = stored.run(recipe, *RECIPES[recipe], verb="plan")
    found = {one["stage"]: one for one in plan["stages"]}
    cached = {name: one["run_id"] for name, one in found.items() if one["status"] == "cached"}
    expected = dict(recorded["outputs"][recipe])
    if revised := REVISED.get(recipe):
        del expected[revised]
        assert found[revised]["status"] == "stale"
        assert found[revised]["reason"] == "`kl` means something else"
    assert cached == expected


def test_the_report_is_the_same(stored: Stored) -> None:
    assert stored.report(recorded["run"]) == near(recorded["report"], 1e-6)


def test_the_table_is_the_same(stored: Stored) -> None:
    code, said = stored.code("report", recorded["run"], "--tracking-uri", stored.uri)
    assert (code, said) == (0, recorded["table"])


def test_the_comparison_is_the_same(stored: Stored) -> None:
    assert stored.report("--compare", recorded["run"]) == near(recorded["compared"], 1e-6)


def test_a_stage_is_forced_on_old_inputs(own: Stored) -> None:
    found = own.run("quala_minilm", "stage.search.force=true", "flow.until=search")
    before = STAGES[: STAGES.index("search")]
    expected = dict.fromkeys(before, "cached") | {"search": "done"}
    assert {name: statuses(found)[name] for name in expected} == expected
    result = json.loads((output(found, "search") / "search.json").read_text())
    assert result == near(recorded["search"], 1e-6)


@pytest.mark.parametrize("strategy", SEARCHES)
def test_an_interrupted_search_ends_as_if_it_had_not_been(own: Stored, strategy: str) -> None:
    words = SEARCHES[strategy]
    plan = own.run("quala_minilm", *words, "flow.until=search", verb="plan")
    planned = {one["stage"]: one for one in plan["stages"]}["search"]
    assert planned["status"] == "resume"
    scratch = own.folder / f"mlruns/work/{planned['fingerprint'][:16]}/scratch"
    (journal,) = scratch.rglob("study.journal")
    begun = journal.read_bytes()
    found = own.run("quala_minilm", *words, "flow.until=search")
    assert statuses(found)["search"] == "resumed"
    folder = output(found, "search")
    assert (folder / "study/study.journal").read_bytes().startswith(begun)
    result = json.loads((folder / "search.json").read_text())
    assert result == near(recorded["searches"][strategy], 1e-6)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_says_the_same(stored: Stored, name: str) -> None:
    found = logits(run_of(stored, *CHECKPOINTS[name]), recorded["batch"])
    assert found == near(recorded["checkpoints"][name], 1e-5)


@pytest.mark.parametrize("name", ASKED)
def test_an_export_answers_the_same(stored: Stored, name: str) -> None:
    import quala

    answerer = quala.load(run_of(stored, "quala_minilm", "export"))
    assert reply(answerer, **ASKED[name]) == near(recorded["answers"][name], 1e-4)


def test_mlflow_predicts_the_same(stored: Stored) -> None:
    folder = run_of(stored, "quala_minilm", "export")
    assert "loader_module: quala.export.served" in (folder / "MLmodel").read_text()
    assert predictions(folder) == near(recorded["predictions"], 1e-4)


def test_a_run_answers_as_its_export_does(stored: Stored) -> None:
    asked = ["--question", QUESTION, "--context", CONTEXT, "--json"]
    code, said = stored.code("answer", recorded["run"], *asked, "--tracking-uri", stored.uri)
    assert code == 0
    answer, expected = json.loads(said)["answers"][0], recorded["answers"]["full"]["answers"][0]
    assert (answer["start"], answer["end"]) == (expected["start"], expected["end"])


def test_another_option_makes_what_follows_stale(stored: Stored) -> None:
    found = statuses(stored.run("quala_minilm", "stage.length_adapt.bound=0.2", verb="plan"))
    expected = ["cached"] * 2 + ["stale"] * 6
    assert [found[stage] for stage in STAGES] == expected
