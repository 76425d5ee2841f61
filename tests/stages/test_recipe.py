"""What a script says of its distillations is what the options do, or it is one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from quala.checkpoint import load_with_data
from quala.cli.entry import main
from quala.compress.prune.config import ShrinkConfig
from quala.compress.quantize.config import QuantizeConfig
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.stages import student
from quala.stages.distill_options import OPTIONAL_STEPS
from quala.stages.recipe import distill, refine

TERNARY = QuantizeConfig(weight_quantizer="twn", weight_bits=2)
XTC = distill("copy_layers", "fake_quantize", losses=("soft", "hidden", "attention"))
LOSSES = {"hard": 0.0, "soft": 1.0, "hidden": 1.0, "attention": 1.0, "relation": 0.0}


@pytest.mark.parametrize(
    "options",
    [
        {"quantizers": TERNARY},
        {},
        {"quantizers": TERNARY, "hidden": 0.0, "attention": 0.0},
        {"losses": {"quala.compress.losses.SoftLoss": 1.0}},
    ],
    ids=["all", "without a step", "without losses", "with a loss of one's own"],
)
def test_options_may_leave_out_what_a_recipe_has(configure: Any, options: dict[str, Any]) -> None:
    XTC.check("xtc", configure("distill", **{**LOSSES, **options}))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"width": 0.5}, "`xtc` has no step `narrow`: `stage.distill.width` must be 1.0, got 0.5"),
        ({"shrink": ShrinkConfig(2.0)}, "no step `shrink`: `stage.distill.shrink` must be null"),
        ({"split": True, "quantizers": TERNARY}, "`stage.distill.split` must be false, got True"),
        ({"relation": 1.0}, "`xtc` has no loss `relation`: `stage.distill.relation` must be 0.0"),
        ({"hard": 0.5}, "`xtc` has no loss `hard`: `stage.distill.hard` must be 0.0, got 0.5"),
    ],
)
def test_options_add_nothing_to_a_recipe(
    configure: Any, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(QualaError, match=sentence):
        XTC.check("xtc", configure("distill", **{**LOSSES, **options}))


def test_a_second_distillation_has_options_of_its_own(configure: Any) -> None:
    with pytest.raises(QualaError, match=r"`stage\.refine\.hidden` must be 0\.0"):
        refine(losses=("soft",)).check(
            "two", configure("distill", **(LOSSES | {"attention": 0.0}))
        )


@pytest.mark.parametrize(
    ("steps", "losses", "sentence"),
    [
        (["copy_layer"], [], "Unknown distillation step `copy_layer`. Did you mean `copy_layers`"),
        ([], ["relations"], "Unknown distillation loss `relations`. Did you mean `relation`"),
        (["split", "narrow"], [], r"Steps run in the order \['narrow', 'split'\]"),
    ],
)
def test_a_script_says_what_there_is(steps: list[str], losses: list[str], sentence: str) -> None:
    with pytest.raises(QualaError, match=sentence):
        distill(*steps, losses=tuple(losses))


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, ["copy_layers"]),
        ({"width": 0.5, "quantizers": TERNARY}, ["copy_layers", "narrow", "fake_quantize"]),
        ({"quantizers": TERNARY, "split": True}, ["copy_layers", "fake_quantize", "split"]),
        ({"shrink": ShrinkConfig(2.0)}, ["copy_layers", "shrink"]),
    ],
)
def test_a_student_goes_through_the_steps_that_the_options_name(
    configure: Any,
    spec: DataSpec,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    steps: list[str],
) -> None:
    config = configure("distill", **options)
    assert config.steps == steps
    made: list[str] = []
    for step in ("copy_layers", *OPTIONAL_STEPS):
        monkeypatch.setattr(student, step, _noted(made, step, getattr(student, step)))
    teacher = load_with_data(tiny_checkpoint, spec)
    student.make_student(config, teacher, {"teacher": tiny_checkpoint, "data": spec})
    assert made == steps


def _noted(made: list[str], step: str, function: Any) -> Any:
    def done(*args: Any, **options: Any) -> Any:
        made.append(step)
        return function(*args, **options)

    return done


def test_a_plan_of_another_recipe_is_one_sentence(
    migrated_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns").mkdir()
    shutil.copy(migrated_database, tmp_path / "mlruns/mlflow.db")
    assert main(["plan", "kdlsq", "stage.distill.width=0.5"]) == 2
    assert "error: `kdlsq` has no step `narrow`" in capsys.readouterr().err
    assert main(["plan", "kdlsq", "stage.distill.hidden=0", "--json"]) == 0
