"""Teachers that options name: their content counts, and what is wrong is said by the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quala.errors import QualaError
from quala.workflow.compose import composed, typed
from quala.workflow.plan import _called, check_plan
from quala.workflow.script import find_workflow
from quala.workflow.sources import Sources

WORKFLOW = find_workflow("quala_minilm")


def prints(*words: str) -> dict[str, str]:
    """Return the fingerprints of the stages of a plan."""
    settings = typed(composed(WORKFLOW, ["experiment=demo", *words]), WORKFLOW)
    nodes = _called(WORKFLOW, settings, Sources(None))[1]  # type: ignore[arg-type]
    return {name: node.fingerprint for name, node in nodes.items()}


def check(*words: str, workflow: Any = WORKFLOW) -> None:
    own = ["experiment=demo"] if workflow is WORKFLOW else []
    check_plan(workflow, typed(composed(workflow, [*own, *words]), workflow))


def test_the_content_of_a_file_counts_and_its_place_does_not(tmp_path: Path) -> None:
    for name, content in {"a.npz": 1, "b.npz": 1, "c.npz": 2}.items():
        np.savez(tmp_path / name, id=content)
    plain = prints()
    made = {
        name: prints(f"stage.distill.teachers=[{tmp_path}/{name}.npz]") for name in ("a", "b", "c")
    }
    assert made["a"] == made["b"]
    assert len({plain["distill"], made["a"]["distill"], made["c"]["distill"]}) == 3
    assert made["c"]["finetune"] == plain["finetune"]
    file = f"{tmp_path}/a.npz"
    own = prints(f"stage.distill.teachers=[{file},teacher]")
    shares = prints(
        f"stage.distill.teachers=[{file},teacher]", "stage.distill.teacher_weights=[2,1]"
    )
    assert len({made["a"]["distill"], own["distill"], shares["distill"]}) == 3


def test_teachers_are_looked_for_before_anything_runs(tmp_path: Path) -> None:
    lost = f"stage.length_adapt.teachers=[{tmp_path}/lost.npz]"
    with pytest.raises(QualaError, match=r"here is no teacher's file at `/"):
        check(lost, "stage.length_adapt.teacher=1")
    np.savez(tmp_path / "lost.npz", id=1)
    check(lost, "stage.length_adapt.teacher=1")
    for ending, content in {
        "npz": (tmp_path / "lost.npz").read_bytes()[:-30], "parquet": b"PAR1 cut", "json": b"[]",
        "jsonl": b"",
    }.items():  # fmt: skip
        (tmp_path / f"cut.{ending}").write_bytes(content)
        with pytest.raises(QualaError, match=rf"`teachers`: .*cut.{ending}` is damaged, or is no"):
            check(f"stage.distill.teachers=[{tmp_path}/cut.{ending}]")
    with pytest.raises(QualaError, match=r"there is no model folder at `/nowhere/x"):
        check("stage.distill.teachers=[/nowhere/x]")
    with pytest.raises(QualaError, match=r"`stage.distill.teacher_missing`.*refuse, skip"):
        check("stage.distill.teacher_missing=drop")
    foreign = tmp_path / "model"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"model_type": "mobilebert"}')
    check(f"stage.distill.teachers=[{foreign}]")
    (foreign / "config.json").write_text("{")
    with pytest.raises(QualaError, match=r"config.json` is no valid JSON"):
        check(f"stage.distill.teachers=[{foreign}]")


def test_a_student_of_its_own_needs_its_stage() -> None:
    plain = prints("stage.distill.enabled=true")
    own = prints("model.student=offline", "stage.distill.enabled=true")
    assert own["distill"] != plain["distill"]
    with pytest.raises(QualaError, match=r"`model.student` is trained by `distill`"):
        check("model.student=offline", "stage.distill.enabled=false")
    with pytest.raises(QualaError, match=r"`model.student`: `kdlsq` makes its student of its"):
        check("model.student=offline", workflow=find_workflow("kdlsq"))
