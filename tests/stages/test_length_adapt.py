"""The sandwich rule: who learns from whom, at which lengths."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from quala.checkpoint import Checkpoint, load_with_data, set_dropout
from quala.data.features import Batch
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.lengths import constant_drop, sample_few_drops, sample_length_drop
from quala.models.significance import significance
from quala.stages import finetune, length_adapt
from quala.stages.length_adapt import NO_LAYERS, SandwichModule
from quala.stages.teacher import LiveTeacher
from quala.stages.training import fit, plan_training
from quala.workflow import StageContext

Make = Callable[..., SandwichModule]
SMALLEST = constant_drop(0.3, layers=2, sequence_length=128)


@pytest.fixture
def opened(tiny_checkpoint: Path, spec: DataSpec) -> Checkpoint:
    return load_with_data(tiny_checkpoint, spec)


@pytest.fixture
def make(opened: Checkpoint, configure: Any, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return a maker of modules that run backward without a trainer."""

    def made(*, external: Any = None, **changes: Any) -> SandwichModule:
        config = configure("length_adapt", **changes)
        plan = plan_training(opened.data.train.features, config, pad_to=opened.pad_to)
        return SandwichModule(
            opened.model,
            config,
            plan,
            sequence_length=128,
            teacher=None if external is None else LiveTeacher(external),
        )

    monkeypatch.setattr(SandwichModule, "manual_backward", lambda self, loss: loss.backward())
    return made


@pytest.fixture
def batch(opened: Checkpoint) -> Batch:
    return opened.data.train.features.batch(range(4))


def gradients(module: SandwichModule) -> dict[str, torch.Tensor]:
    """Return the gradients, and forget them."""
    named = module.model.named_parameters()
    found = {name: item.grad.clone() for name, item in named if item.grad is not None}
    module.zero_grad()
    return found


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.allclose(first[name], second[name], atol=1e-7) for name in first
    )


@pytest.mark.parametrize("num_sandwich", [0, 2])
def test_a_step_has_a_full_a_smallest_and_sampled_passes(
    opened: Checkpoint, configure: Any, tmp_path: Path, num_sandwich: int
) -> None:
    config = configure("length_adapt", max_steps=1, num_sandwich=num_sandwich, layer_drop=0.5)
    plan = plan_training(opened.data.train.features, config, pad_to=None)
    module = SandwichModule(opened.model, config, plan, sequence_length=128)
    seen: list[tuple[Any, Any]] = []

    def note(model: Any, words: Any, options: Any, result: Any) -> None:
        if model.training:  # the outputs of the trained model are checked once
            seen.append((words[1:], options["skip_layers"]))

    opened.model.register_forward_hook(note, with_kwargs=True)
    fit(module, StageContext.alone("length_adapt", tmp_path))
    assert len(seen) == 2 + num_sandwich
    assert seen[0] == ((), frozenset())
    assert seen[1][0] == (SMALLEST,)
    assert all(words for words, _ in seen[1:])
    assert set(module.losses) == {"task", "sub"}


def test_full_layer_drop_skips_in_the_full_pass_too(make: Make, batch: Batch) -> None:
    module = make(layer_drop=0.9, full_layer_drop=True)
    skipped = []
    module.model.register_forward_hook(
        lambda model, words, options, result: skipped.append(options["skip_layers"]),
        with_kwargs=True,
    )
    for seed in range(5):
        module._full_pass(batch, Random(seed), 1.0)
    assert any(skipped)


def test_the_full_pass_hands_detached_logits_on(make: Make, batch: Batch) -> None:
    module = make()
    target = module._full_pass(batch, Random(0), 1.0)
    assert not target.requires_grad
    torch.testing.assert_close(target, module.model(batch).detach())


def test_sub_passes_learn_nothing_but_the_target(make: Make, batch: Batch) -> None:
    module = make(sub_hard=0.0)
    target = module.model(batch).detach() + 1.5 * torch.arange(2)
    target[:, 3] += 4.0
    other: Batch = {**batch, "labels": batch["labels"].flip(0).roll(1, dims=1)}
    module._sub_pass(batch, target, SMALLEST, NO_LAYERS, 1.0)
    first = gradients(module)
    module._sub_pass(other, target, SMALLEST, NO_LAYERS, 1.0)
    assert same(first, gradients(module))
    assert any(gradient.abs().max() > 1e-4 for gradient in first.values())


def test_sub_passes_that_agree_learn_nothing(make: Make, batch: Batch) -> None:
    module = make(sub_hard=0.0, direction="forward")
    target = module.model(batch, SMALLEST).detach()
    module._sub_pass(batch, target, SMALLEST, NO_LAYERS, 1.0)
    assert all(gradient.abs().max() < 1e-6 for gradient in gradients(module).values())


def test_hard_labels_reach_the_sub_passes_where_asked(make: Make, batch: Batch) -> None:
    module = make(sub_hard=1.0)
    target = module.model(batch, SMALLEST).detach()
    module._sub_pass(batch, target, SMALLEST, NO_LAYERS, 1.0)
    assert any(gradient.abs().max() > 1e-4 for gradient in gradients(module).values())


def test_the_weight_of_a_pass_scales_its_gradient(make: Make, batch: Batch) -> None:
    module = make()
    module._full_pass(batch, Random(0), 1.0)
    whole = gradients(module)
    module._full_pass(batch, Random(0), 0.25)
    assert same({name: value / 4 for name, value in whole.items()}, gradients(module))


def test_exits_teach_every_layer_what_the_whole_model_says(make: Make, batch: Batch) -> None:
    module = make(hard=0.0, teacher=1.0, exits=1.0)
    module.model.significance = significance("span")
    with torch.no_grad():
        module.model.hf.qa_outputs.weight.mul_(50.0)
    set_dropout(module.model.hf, hidden=0.0, attention=0.0)
    optimizer = torch.optim.SGD(module.model.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        module._full_pass(batch, Random(0), 1.0)
        losses.append(module.losses["exits"].item())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.5 * losses[0]
    assert losses[0] > 1e-4


def test_exits_count_with_the_significance_that_reads_them(make: Make, batch: Batch) -> None:
    module = make(exits=1.0)
    module._full_pass(batch, Random(0), 1.0)
    assert "exits" not in module.losses


@pytest.mark.parametrize(
    ("start", "step", "bound"),
    [(None, 0, 0.3), (0.1, 0, 0.1), (0.1, 2, 0.2), (0.1, 4, 0.3), (0.1, 8, 0.3)],
)
def test_the_bound_grows_over_the_first_half(
    make: Make, monkeypatch: pytest.MonkeyPatch, start: float | None, step: int, bound: float
) -> None:
    module = make(bound_start=start, max_steps=8, epochs=9)
    monkeypatch.setattr(SandwichModule, "global_step", step)
    assert module._bound() == pytest.approx(bound)
    smallest = module._lengths(Random(0), NO_LAYERS, smallest=True)
    assert smallest == constant_drop(bound, layers=2, sequence_length=128)


def test_the_smallest_pass_honors_skipped_layers(make: Make) -> None:
    smallest = make(layer_drop=0.2)._lengths(Random(0), frozenset({0}), smallest=True)
    assert smallest.lengths == (128, 90)


@pytest.mark.parametrize(
    ("name", "sample"),
    [("length_drop", sample_length_drop), ("few_drops", sample_few_drops)],
)
def test_the_sampler_has_a_name(make: Make, name: str, sample: Callable[..., Any]) -> None:
    module, skipped = make(sampler=name), frozenset({1})
    for seed in range(5):
        expected = sample(0.3, layers=2, sequence_length=128, rng=Random(seed), skipped=skipped)
        assert module._lengths(Random(seed), skipped, smallest=False) == expected


def test_a_teacher_is_in_no_checkpoint(
    opened: Checkpoint, configure: Any, tiny_checkpoint: Path, spec: DataSpec, tmp_path: Path
) -> None:
    config = configure("length_adapt", max_steps=2, teacher=1.0, checkpoint_minutes=1e-9)
    teacher = load_with_data(tiny_checkpoint, spec).model
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    plan = plan_training(opened.data.train.features, config, pad_to=None)
    module = SandwichModule(
        opened.model,
        config,
        plan,
        sequence_length=128,
        teacher=LiveTeacher(teacher),
    )
    names = set(module.state_dict())
    assert names == {f"model.{name}" for name in opened.model.state_dict()}
    fit(module, StageContext.alone("length_adapt", tmp_path))
    files = list((tmp_path / "scratch").glob("*.ckpt"))
    assert files
    for file in files:
        assert set(torch.load(file, weights_only=True)["state_dict"]) == names
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_the_teacher_weighs_in_the_full_pass_only(
    make: Make, batch: Batch, opened: Checkpoint, tiny_checkpoint: Path, spec: DataSpec
) -> None:
    teacher = load_with_data(tiny_checkpoint, spec).model
    module = make(external=teacher, teacher=1.0, hard=0.0)
    target = module._full_pass(batch, Random(0), 1.0)
    assert all(gradient.abs().max() < 1e-6 for gradient in gradients(module).values())
    torch.testing.assert_close(target, module.model(batch).detach())


def test_the_sub_passes_may_follow_the_teacher(
    make: Make, batch: Batch, tiny_checkpoint: Path, spec: DataSpec
) -> None:
    teacher = load_with_data(tiny_checkpoint, spec).model
    with torch.no_grad():
        teacher.hf.qa_outputs.weight.mul_(2)
    target = make(external=teacher, teacher_for_subs=True)._full_pass(batch, Random(0), 1.0)
    torch.testing.assert_close(target, teacher(batch))


@pytest.mark.parametrize(
    "changes", [{"hard": 0.0}, {"bound": 1.0}, {"layer_drop": -0.1}, {"selection_every": 0}]
)
def test_a_training_that_makes_no_sense_is_refused(
    configure: Any, changes: dict[str, float]
) -> None:
    with pytest.raises(QualaError, match=f"`{next(iter(changes))}`"):
        configure("length_adapt", **changes)


def test_regression_works(
    tiny_checkpoint: Path, configure: Any, tmp_path: Path, recording: Any
) -> None:
    rows = [f"the number {number}\t{number / 7:.2f}" for number in range(40)]
    (tmp_path / "values.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    data = DataSpec(task="glue", path=str(tmp_path / "values.tsv"), max_length=16)
    context = StageContext("length_adapt", tmp_path / "o", tmp_path / "s", recorder=recording())
    context.scratch.mkdir()
    tuned = StageContext.alone("finetune", tmp_path / "tuned")
    inputs = {"data": data, "model": tiny_checkpoint}
    finetune.run(configure("finetune", max_steps=1), tuned, inputs)
    config = configure("length_adapt", max_steps=2, significance="cls")
    figures = length_adapt.run(config, context, {"data": data, "model": tuned.output})
    logged = [item for item in context.recorder.figures if "train/sub" in item]  # type: ignore[union-attr]
    assert len(logged) == 2
    assert all(math.isfinite(value) for value in {**figures, **logged[0]}.values())
    assert logged[0]["train/task"] > 0
