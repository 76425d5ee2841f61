"""A student that is made smaller first: its zeros, its size, its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from quala.checkpoint import Checkpoint, load_with_data, score_slice
from quala.compress.losses import LossSetup
from quala.compress.prune.config import ShrinkConfig
from quala.compress.prune.magnitude import Masks, PrunedWeights, prunable_weights
from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.integer import integer_layers
from quala.compress.shrink import weight_budget
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.models.load import weights_file
from quala.stages import distill, length_adapt
from quala.stages.student import Student, make_student, shrink
from quala.stages.teacher import LiveTeacher
from quala.stages.training import plan_training
from quala.workflow import StageContext

WHOLE = {"layers": 2, "relation": 1.0, "hidden": 1.0, "attention": 1.0}
STILL = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
RATIO = 4.0
SHRINK = ShrinkConfig(RATIO)
UNREAD: Any = None
"""The training of a student whose weights are ranked by magnitude."""


@pytest.fixture
def run(
    configure: Any, spec: DataSpec, tiny_checkpoint: Path, tmp_path: Path
) -> Callable[..., tuple[Path, dict[str, float]]]:
    """Return the stage as a function: options in, its folder and figures out."""

    def done(
        name: str = "d", *, model: Path | None = None, **changes: Any
    ) -> tuple[Path, dict[str, float]]:
        config = configure(
            "distill", **{"max_steps": 3, "shrink": SHRINK, **WHOLE, **STILL, **changes}
        )
        inputs = {"data": spec, "teacher": tiny_checkpoint} | ({"model": model} if model else {})
        context = StageContext.alone("distill", tmp_path / name)
        return context.output, distill.run(config, context, inputs)

    return done


@pytest.fixture
def teacher(tiny_checkpoint: Path, spec: DataSpec) -> Checkpoint:
    return load_with_data(tiny_checkpoint, spec)


def shrunk(teacher: Checkpoint, config: ShrinkConfig = SHRINK) -> Student:
    return shrink(Student(teacher), config, UNREAD, whole=teacher.model.arch)


def count(opened: Checkpoint) -> int:
    return sum(weight.numel() for weight in opened.model.hf.parameters())


def kept(opened: Checkpoint) -> int:
    """Count the parameters besides the zeros of matrices that pruning may touch."""
    zeros = sum(int((weight == 0).sum()) for weight in prunable_weights(opened.model.hf).values())
    return count(opened) - zeros


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize(
    "changes", [{}, {"selection_every": 2}, {"freeze_word_embeddings": True, "precision": "bf16"}]
)
def test_a_trained_student_has_the_zeros_that_it_began_with(
    run: Any, teacher: Checkpoint, spec: DataSpec, share: float, changes: dict[str, Any]
) -> None:
    config = ShrinkConfig(RATIO, svd_share=share)
    folder, _ = run(shrink=config, learning_rate=0.01, **changes)
    student = load_with_data(folder, spec)
    assert kept(student) == round(count(teacher) / RATIO)
    start = shrunk(teacher, config)
    before, after = (prunable_weights(one.model.hf) for one in (start, student))
    for name, mask in start.masks.items():
        assert torch.equal(after[name] != 0, mask), name
    moved = [name for name in start.masks if not torch.equal(before[name], after[name])]
    words = [name for name in start.masks if "word_embeddings" in name]
    assert moved == [name for name in start.masks if not changes.get("freeze_word_embeddings")
                     or name not in words]  # fmt: skip


@pytest.mark.parametrize("ratio", [2.5, 5.0, 7.5])
def test_the_ratio_counts_against_the_teacher(
    run: Any, teacher: Checkpoint, spec: DataSpec, ratio: float
) -> None:
    folder, figures = run(shrink=ShrinkConfig(ratio), max_steps=1)
    student = load_with_data(folder, spec)
    assert kept(student) == figures["shrink/parameters"] == round(count(teacher) / ratio)
    assert figures["shrink/ratio"] == pytest.approx(ratio, rel=1e-3)


def test_fewer_layers_count_too(run: Any, teacher: Checkpoint, spec: DataSpec) -> None:
    folder, figures = run(layers=1)
    student = load_with_data(folder, spec)
    assert student.model.num_layers == 1
    assert kept(student) == figures["shrink/parameters"] == round(count(teacher) / RATIO)


def test_steps_go_on_from_the_student_of_the_one_before(
    run: Any, teacher: Checkpoint, spec: DataSpec
) -> None:
    first, second = ShrinkConfig(RATIO, steps=2).one_by_one()
    earlier, _ = run("first", shrink=first)
    later, _ = run("second", shrink=second, model=earlier)
    students = [load_with_data(folder, spec) for folder in (earlier, later)]
    assert [kept(student) for student in students] == [
        round(count(teacher) / ratio) for ratio in (RATIO**0.5, RATIO)
    ]
    ranks = [student.model.arch.sizes[0].ranks for student in students]
    assert all(before > after for before, after in zip(*ranks))


def test_the_file_holds_a_bit_for_each_weight_and_those_that_are_left(
    run: Any, spec: DataSpec
) -> None:
    folder, _ = run()
    student = load_with_data(folder, spec)
    matrices = prunable_weights(student.model.hf)
    payload = 4 * (count(student) - sum(weight.numel() for weight in matrices.values()))
    for weight in matrices.values():
        left = int((weight != 0).sum())
        bits = -(-weight.numel() // 8)
        whole = 4 * weight.numel()
        payload += bits + 4 * left if whole - bits - 4 * left > 256 else whole
    file = weights_file(folder)
    header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    assert file.stat().st_size - header == payload
    assert payload < 4 * count(student) / 1.5


def test_what_is_scored_is_what_the_folder_holds(run: Any, spec: DataSpec) -> None:
    folder, figures = run()
    opened = load_with_data(folder, spec)
    assert opened.precision == "fp32"
    score = score_slice(opened, opened.data.selection, batch_size=8)["f1"]
    assert score == pytest.approx(figures["selection/f1"])


def test_a_later_stage_takes_the_student(
    run: Any, configure: Any, spec: DataSpec, tmp_path: Path
) -> None:
    folder, _ = run(shrink=ShrinkConfig(RATIO, svd_share=0.0))
    context = StageContext.alone("length_adapt", tmp_path / "next")
    inputs = {"data": spec, "model": folder}
    length_adapt.run(configure("length_adapt", max_steps=1), context, inputs)
    assert load_with_data(context.output, spec).model.num_layers == 2


def test_the_masks_are_in_the_checkpoint(run: Any, teacher: Checkpoint, tmp_path: Path) -> None:
    run()
    masks = shrunk(teacher).masks
    (file,) = (tmp_path / "d/scratch").glob("*.ckpt")
    state = torch.load(file, weights_only=True)["state_dict"]
    saved = [value for name, value in state.items() if name.startswith("pruned.")]
    assert all(torch.equal(mask, there) for mask, there in zip(masks.values(), saved, strict=True))


@pytest.fixture
def training(configure: Any, teacher: Checkpoint) -> tuple[distill.DistillModule, Masks]:
    """A training of a pruned student, after its first backward pass, and the student's masks."""
    student = shrunk(teacher)
    config = configure("distill", **WHOLE, **STILL, learning_rate=0.1, warmup_ratio=0.0)
    data = teacher.data
    plan = plan_training(data.train.features, config, pad_to=None)
    module = distill.DistillModule(
        student.model, LiveTeacher(teacher.model), config, plan,
        setup=LossSetup(data.task, [(0, 0), (1, 1)], relation_heads=2), masks=student.masks,
    )  # fmt: skip
    module.training_step(data.train.features.batch([0, 1]), 0).backward()
    return module, student.masks


def test_a_pruned_weight_has_no_gradient(training: tuple[distill.DistillModule, Masks]) -> None:
    module, masks = training
    weights = dict(module.model.hf.named_parameters())
    whole = {name: weights[name].grad.clone() for name in masks}
    module.on_after_backward()
    assert any(bool(gradient[~masks[name]].any()) for name, gradient in whole.items())
    for name, mask in masks.items():
        assert torch.equal(weights[name].grad, whole[name].where(mask, 0.0)), name


def test_a_step_leaves_the_zeros_even_where_there_was_a_gradient(
    training: tuple[distill.DistillModule, Masks],
) -> None:
    module, masks = training
    weights = dict(module.model.hf.named_parameters())
    before = {name: weights[name].clone() for name in masks}
    made = module.configure_optimizers()  # the schedule wants its optimizer alive
    made["optimizer"].step()
    for name, mask in masks.items():
        assert not weights[name][~mask].any(), name
        assert not torch.equal(weights[name], before[name])


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_pruned_weights_are_zero_after_any_step(kind: type[torch.optim.Optimizer]) -> None:
    layer = torch.nn.Linear(6, 4)
    mask = torch.arange(24).view(4, 6) % 3 == 0
    pruned = PrunedWeights({"weight": mask})
    optimizer = kind(layer.parameters(), lr=0.1)  # type: ignore[call-arg]
    pruned.keep_zero(layer, optimizer)
    layer(torch.ones(5, 6)).square().sum().backward()
    optimizer.step()
    assert torch.equal(layer.weight != 0, mask)


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({}, "int8"),
        ({"weight_quantizer": "lsq", "embedding_quantizer": "lsq",
          "activation_range": "lsq"}, "int8"),
        ({"weight_quantizer": "lat", "weight_bits": 2, "embedding_quantizer": "twn",
          "embedding_bits": 2}, "w2e2a8"),
    ],
)  # fmt: skip
def test_pruned_weights_are_rounded_to_zero(
    run: Any, teacher: Checkpoint, spec: DataSpec, options: dict[str, Any], precision: str
) -> None:
    folder, figures = run(quantizers=QuantizeConfig(**options))
    student = load_with_data(folder, spec)
    assert student.precision == precision
    masks = shrunk(teacher).masks
    layers = integer_layers(student.model.hf)
    for name, mask in masks.items():
        assert not layers[name.removesuffix(".weight")].weight[~mask].any(), name
    score = score_slice(student, student.data.selection, batch_size=8)["f1"]
    assert score == pytest.approx(figures["selection/f1"])


def test_eight_bit_codes_are_stored_without_their_zeros(run: Any, spec: DataSpec) -> None:
    folder, _ = run(quantizers=QuantizeConfig())
    layers = integer_layers(load_with_data(folder, spec).model.hf)
    stored = load_file(weights_file(folder))
    name = "bert.embeddings.word_embeddings.table"
    codes = layers[name].weight
    assert stored[f"{name}.weight.mask"].numel() == -(-codes.numel() // 8)
    assert torch.equal(stored[f"{name}.weight.values"], codes[codes != 0])


def test_an_unreachable_last_ratio_is_refused_before_the_first_step(
    run: Any, teacher: Checkpoint, tmp_path: Path
) -> None:
    matrices = sum(weight.numel() for weight in prunable_weights(teacher.model.hf).values())
    most = count(teacher) / (count(teacher) - matrices)
    first = ShrinkConfig(1.01 * most, steps=9).one_by_one()[0]
    assert weight_budget(teacher.model.hf, first.now(), original_parameters=count(teacher)) > 0
    with pytest.raises(QualaError, match=f"allowed is below {most:.4g}"):
        run(shrink=first)
    assert not list((tmp_path / "d/scratch").iterdir())


def test_several_steps_in_one_training_are_refused(run: Any) -> None:
    with pytest.raises(QualaError, match=r"`shrink\.steps` is 3"):
        run(shrink=replace(SHRINK, steps=3))


def test_zeros_and_binary_weights_exclude_each_other(configure: Any) -> None:
    binary = QuantizeConfig(weight_quantizer="bwn", weight_bits=1)
    with pytest.raises(QualaError, match="`weight_quantizer=bwn` has no code"):
        configure("distill", shrink=SHRINK, quantizers=binary)


def test_an_integer_student_is_not_made_smaller(run: Any) -> None:
    folder, _ = run("first", shrink=None, quantizers=QuantizeConfig())
    assert json.loads((folder / "quala.json").read_text())["precision"] == "int8"
    with pytest.raises(QualaError, match="cannot be trained further"):
        run("second", model=folder)


def test_zeros_that_shrink_leaves_alone_are_kept_too(
    teacher: Checkpoint, spec: DataSpec, configure: Any, tiny_checkpoint: Path
) -> None:
    words = teacher.model.hf.get_input_embeddings().weight
    with torch.no_grad():
        words[10:20, :5] = 0
    config = configure(
        "distill", **WHOLE, keep_zeros=True, shrink=ShrinkConfig(sparsity=0.5, embeddings=False)
    )
    student = make_student(config, teacher, {"teacher": tiny_checkpoint, "data": spec})
    (name,) = (name for name in student.masks if "word_embeddings" in name)
    assert not student.masks[name][10:20, :5].any()
    assert len(student.masks) > 1
