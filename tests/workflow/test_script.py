"""What a workflow script declares, and how one is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from quala.errors import QualaError
from quala.stages import STAGES
from quala.workflow import Flow, workflow
from quala.workflow.script import find_workflow


def nothing(flow: Flow) -> None:
    """Do nothing."""


def test_without_names_a_workflow_may_run_every_stage() -> None:
    assert workflow("mine")(nothing).stages == STAGES


def test_named_stages_stand_in_the_order_of_their_names() -> None:
    found = workflow("mine", stages=("report", "finetune"))(nothing)
    assert list(found.stages) == ["report", "finetune"]
    assert found.known_stages == STAGES


def test_a_stage_that_does_not_exist_has_a_nearest_name() -> None:
    with pytest.raises(QualaError, match="Did you mean `finetune`"):
        _ = workflow("mine", stages=["finetun"])(nothing).stages


def test_a_workflow_is_found_again_by_its_place() -> None:
    ours = find_workflow("kdlsq")
    assert Path(ours.place) == ours.script
    assert find_workflow(ours.place).name == "kdlsq"


def test_a_script_must_declare_one_workflow(tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("")
    with pytest.raises(QualaError, match="must declare one workflow, it declares 0"):
        find_workflow(str(tmp_path / "none.py"))
