"""A distillation loss from outside quala, by dotted path and by entry point."""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.plugins import LOSSES
from quala.stages import distill
from quala.stages.distill_options import CacheConfig
from quala.stages.recipe import distill as distill_of
from quala.workflow import StageContext
from quala.workflow.compose import composed, typed
from quala.workflow.identity import config_identity
from quala.workflow.script import find_workflow

CODE = '''
from torch import Tensor
from torch.nn.functional import cosine_similarity

from quala.compress.losses import DistillLoss, LossInputs, both_traces


class CosineLoss(DistillLoss):
    """One minus the cosine of the last hidden states, mean over real tokens."""

    needs = "hidden"

    def __call__(self, inputs: LossInputs) -> Tensor:
        student, teacher = both_traces(inputs)
        real = inputs.mask.bool()
        own, goal = student.hidden[-1][real], teacher.hidden[-1][real]
        return 1 - cosine_similarity(own, goal, dim=-1).mean()


class Margin(DistillLoss):
    needs = "answers"

    def __call__(self, inputs: LossInputs) -> Tensor:
        return (inputs.logits - inputs.teacher.logits).abs().mean()


class Wrong(DistillLoss):
    needs = "everything"

    def __call__(self, inputs: LossInputs) -> Tensor:
        raise NotImplementedError


class Plain:
    pass
'''
ENTRY = "[quala.losses]\ncosine = own_losses:CosineLoss\n"
STILL = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "max_steps": 2}
NOTHING = dict.fromkeys(("hard", "soft", "hidden", "attention", "relation"), 0.0)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with a loss in its entry points, as pip leaves it."""
    folder = tmp_path / "site"
    (folder / "own_losses-1.0.dist-info").mkdir(parents=True)
    (folder / "own_losses.py").write_text(textwrap.dedent(CODE))
    (folder / "own_losses-1.0.dist-info/entry_points.txt").write_text(ENTRY)
    metadata = "Metadata-Version: 2.1\nName: own-losses\nVersion: 1.0\n"
    (folder / "own_losses-1.0.dist-info/METADATA").write_text(metadata)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    LOSSES.__dict__.pop("_installed", None)
    yield
    LOSSES.__dict__.pop("_installed", None)


@pytest.fixture
def run(
    configure: Any, spec: DataSpec, tiny_checkpoint: Path, tmp_path: Path, recording: Any,
    installed: None,
) -> Callable[..., list[dict[str, float]]]:  # fmt: skip
    """Return the stage as a function: options in, the logged figures out."""

    def done(name: str = "d", **changes: Any) -> list[dict[str, float]]:
        recorder = recording()
        output, scratch = tmp_path / name / "output", tmp_path / name / "scratch"
        scratch.mkdir(parents=True)
        context = StageContext("distill", output, scratch, recorder=recorder)
        inputs = {"data": spec, "teacher": tiny_checkpoint}
        distill.run(configure("distill", **{**STILL, **changes}), context, inputs)
        return recorder.figures

    return done


@pytest.mark.parametrize("name", ["cosine", "own_losses.CosineLoss"])
def test_a_loss_of_ones_own_trains_a_student(run: Any, name: str) -> None:
    figures = run(**NOTHING, losses={name: 1.0}, warmup_ratio=0.0)
    assert set(figures[0]) == {f"train/{name}", "train/learning_rate"}
    first, second = (step[f"train/{name}"] for step in figures)
    assert first > 0
    assert second > 0
    assert first != second


def test_a_line_in_the_table_makes_a_loss_one_of_quala(
    run: Any, configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOSSES.own, "margin", "own_losses:Margin")  # type: ignore[arg-type]
    assert "train/margin" in run(losses={"margin": 1.0}, max_steps=1)[0]
    config = configure("distill", **NOTHING, losses={"margin": 1.0})
    distill_of("copy_layers", losses=("margin",)).check("mine", config)
    with pytest.raises(
        QualaError, match=r"`stage\.distill\.losses\.margin` must be 0\.0, got 1\.0"
    ):
        distill_of("copy_layers", losses=("soft",)).check("mine", config)


def test_it_adds_to_the_others_with_its_weight(run: Any) -> None:
    both = run("both", losses={"cosine": 2.0}, soft=1.0, relation=0.0, hard=0.0)
    assert {"train/cosine", "train/soft"} <= set(both[0])


def test_it_belongs_to_the_part_of_the_training_that_it_needs(run: Any) -> None:
    options = NOTHING | {"soft": 1.0}
    figures = run(**options, losses={"cosine": 1.0}, inner_first=0.5)
    assert ["train/cosine" in step for step in figures] == [True, False]
    assert ["train/soft" in step for step in figures] == [False, True]


def test_answers_come_from_a_cache_and_whole_states_do_not(run: Any) -> None:
    cache = CacheConfig(full_precision=True)
    live = run("live", **NOTHING, losses={"own_losses.Margin": 1.0}, max_steps=1)
    cached = run("cached", **NOTHING, losses={"own_losses.Margin": 1.0}, max_steps=1, cache=cache)
    name = "train/own_losses.Margin"
    assert cached[0][name] == pytest.approx(live[0][name], rel=1e-4)
    with pytest.raises(QualaError, match=r"`cache` stores .*: `cosine`, which needs hidden, must"):
        run("refused", **NOTHING, losses={"cosine": 1.0}, cache=cache)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("own_losses.Missing", "The distillation loss `own_losses.Missing` cannot be imported"),
        ("own_losses.Plain", "must be a subclass of quala.compress.losses.DistillLoss, got Plain"),
        ("own_losses.Wrong", "Unknown `needs` of the loss `own_losses.Wrong` `everything`"),
    ],
)
def test_what_is_no_loss_is_one_sentence(run: Any, name: str, sentence: str) -> None:
    with pytest.raises(QualaError, match=sentence):
        run(losses={name: 1.0})


@pytest.mark.parametrize(
    ("losses", "sentence"),
    [
        ({"cosin": 1.0}, "Unknown distillation loss `cosin`. Did you mean `cosine`"),
        ({"soft": 1.0}, "`losses` has `soft`, which is an option: set `soft`"),
        ({"cosine": -1.0}, "`losses.cosine` must be at least 0 and .*, got -1.0"),
    ],
)
def test_a_name_is_checked_before_anything_is_trained(
    configure: Any, installed: None, losses: dict[str, float], sentence: str
) -> None:
    with pytest.raises(QualaError, match=sentence):
        configure("distill", losses=losses)


def test_no_loss_of_ones_own_is_no_part_of_the_identity(configure: Any, installed: None) -> None:
    assert "losses" not in config_identity(configure("distill"))
    own = config_identity(configure("distill", losses={"cosine": 0.5}))
    assert own["losses"] == {"cosine": 0.5}


def test_the_command_line_names_a_loss_by_its_path() -> None:
    workflow = find_workflow("quala_minilm")
    words = ["~experiment", "+stage.distill.losses={own_losses.CosineLoss: 0.5}"]
    found = typed(composed(workflow, words), workflow).stages["distill"]
    assert found.losses == {"own_losses.CosineLoss": 0.5}
