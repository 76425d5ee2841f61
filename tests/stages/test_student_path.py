"""Students on the way to a small model: structure, rank and zeros step by step, and transfer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from quala.checkpoint import Checkpoint, load_with_data
from quala.compress.prune.config import ShrinkConfig
from quala.compress.prune.magnitude import Masks, masks_of, prunable_weights, zero_share
from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.integer import integer_layers
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.models.load import stored_facts
from quala.stages import distill, finetune, length_adapt, quantize
from quala.stages.student import Student, followed_layers, importance, make_student
from quala.workflow import StageContext

STILL = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
CODE = {"finetune": finetune, "distill": distill, "length_adapt": length_adapt,
        "quantize": quantize}  # fmt: skip
Run = Callable[..., Path]


@pytest.fixture
def run(configure: Any, spec: DataSpec, tiny_checkpoint: Path, tmp_path: Path) -> Run:
    """Return stages as a function: options in, the folder out."""

    def done(name: str, *, stage: str = "distill", whole: Any = None, **changes: Any) -> Path:
        model, teacher = changes.pop("model", None), changes.pop("teacher", tiny_checkpoint)
        base = {"layers": None, "attention": 0.0, "relation": 0.0, "hidden": 1.0}
        options = {"max_steps": 3, "learning_rate": 0.01, **STILL}
        if stage == "distill":
            options |= base
        inputs = {"data": spec, "model": model, "teacher": teacher, "whole": whole}
        context = StageContext.alone(stage, tmp_path / name)
        inputs = {key: value for key, value in inputs.items() if value is not None}
        CODE[stage].run(configure(stage, **options | changes), context, inputs)
        return context.output

    return done


@pytest.fixture
def teacher(tiny_checkpoint: Path, spec: DataSpec) -> Checkpoint:
    return load_with_data(tiny_checkpoint, spec)


def sizes(opened: Checkpoint) -> list[tuple[int, int]]:
    return [(one.heads, one.intermediate) for one in opened.model.arch.sizes]


def share(opened: Checkpoint, *, embeddings: bool = False) -> float:
    return zero_share(prunable_weights(opened.model.hf, embeddings=embeddings))


def test_steps_go_through_the_sizes_and_count_against_the_first_teacher(
    run: Run, teacher: Checkpoint, tiny_checkpoint: Path, spec: DataSpec
) -> None:
    whole = sizes(teacher)
    heads, neurons = whole[0]
    shrink = ShrinkConfig(
        heads=0.5, neurons=0.25, embedding_rank=4, steps=2, schedule="linear", teacher="previous"
    )  # fmt: skip
    first, second = shrink.one_by_one()
    one = run("one", shrink=first)
    two = run("two", shrink=second, model=one, teacher=one, whole=tiny_checkpoint)
    found = [load_with_data(folder, spec) for folder in (one, two)]
    wanted = [
        (round(heads * 0.75), round(neurons * 0.625)),
        (round(heads * 0.5), round(neurons * 0.25)),
    ]
    assert [sizes(opened) for opened in found] == [[size] * len(whole) for size in wanted]
    hidden = teacher.model.arch.hidden
    ranks = [opened.model.arch.embedding_rank for opened in found]
    assert ranks == [round((hidden + 4) / 2), 4]


def test_what_stays_is_most_important_and_told(
    configure: Any, teacher: Checkpoint, tiny_checkpoint: Path, spec: DataSpec
) -> None:
    options = {"layers": None, "importance_batches": 2, "keep_map": "bottom", "attention": 0.0}
    shrink = ShrinkConfig(heads=0.5, neurons=8, layers=1)
    config = configure("distill", **options, shrink=shrink)
    student = make_student(config, teacher, {"data": spec, "teacher": tiny_checkpoint})
    scores = importance(teacher, config)
    places = scores.neurons[0].argsort(descending=True)[:8]
    (old, new) = (
        opened.model.hf.get_parameter("bert.encoder.layer.0.intermediate.dense.weight")
        for opened in (teacher, student.checkpoint)
    )
    assert torch.equal(old[places], new)
    assert student.origin is not None
    assert student.origin.layers == [0]
    kept = student.model.arch.sizes[0].heads
    best = scores.heads[0].argsort(descending=True, stable=True)[:kept]
    assert student.origin.heads == [best.tolist()]
    # The lowest layer follows the highest one of the teacher, as ROSITA's do.
    assert followed_layers(config, student, teacher) == [(0, teacher.model.num_layers - 1)]


def test_a_student_that_its_former_self_teaches_follows_what_it_copied(
    run: Run, configure: Any, spec: DataSpec, teacher: Checkpoint, tiny_checkpoint: Path
) -> None:
    shrink = ShrinkConfig(heads=0.5, steps=2)
    first, second = shrink.one_by_one()
    one = run("one", shrink=first)
    inputs = {"data": spec, "model": one, "teacher": one, "whole": tiny_checkpoint}
    opened = load_with_data(one, spec)
    student = make_student(configure("distill", shrink=second), opened, inputs)
    assert student.origin is not None
    assert student.origin.layers == list(range(teacher.model.num_layers))
    before = [size.heads for size in opened.model.arch.sizes]
    for kept, count in zip(student.origin.heads, before, strict=True):
        assert len(set(kept)) == len(kept) <= count
    # Of the first teacher it still knows the heads through both steps.
    inputs["teacher"] = tiny_checkpoint
    both = make_student(configure("distill", shrink=second), teacher, inputs)
    recorded = stored_facts(one)["copied"]["heads"]
    assert both.origin is not None
    for after, middle in zip(both.origin.heads, recorded, strict=True):
        assert set(after) <= set(middle)


@pytest.mark.parametrize("score", ["magnitude", "fisher"])
def test_zeros_grow_by_steps_and_never_come_back(
    run: Run, tiny_checkpoint: Path, spec: DataSpec, score: Any
) -> None:
    shrink = ShrinkConfig(
        sparsity=0.8, embeddings=False, steps=2, schedule="cubic", score=score
    )  # fmt: skip
    first, second = shrink.one_by_one()
    one = run("one", shrink=first)
    two = run("two", shrink=second, model=one)
    found = [load_with_data(folder, spec) for folder in (one, two)]
    assert [share(opened) for opened in found] == pytest.approx([0.7, 0.8], abs=1e-3)
    early, late = (masks_of(opened.model.hf) for opened in found)
    assert not any(bool((late[name] & ~mask).any()) for name, mask in early.items())


def test_masks_are_made_anew_after_structure(
    run: Run, spec: DataSpec, teacher: Checkpoint
) -> None:
    first = run("one", shrink=ShrinkConfig(sparsity=0.5))
    shrink = ShrinkConfig(neurons=0.5, embedding_rank=4, sparsity=0.7)
    opened = load_with_data(run("two", shrink=shrink, model=first), spec)
    assert {inner for _, inner in sizes(opened)} == {sizes(teacher)[0][1] // 2}
    assert opened.model.arch.embedding_rank == 4
    assert share(opened, embeddings=True) == pytest.approx(0.7, abs=1e-3)


@pytest.fixture
def sparse(run: Run) -> Path:
    """A checkpoint of 70 % zeros in the encoder."""
    return run("sparse", shrink=ShrinkConfig(sparsity=0.7, embeddings=False), max_steps=1)


def masks_in(folder: Path, spec: DataSpec) -> Masks:
    return masks_of(load_with_data(folder, spec).model.hf)


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("finetune", {}),
        ("distill", {}),
        ("distill", {"shrink": ShrinkConfig(neurons=0.5)}),
        ("length_adapt", {}),
        ("quantize", {"method": "ptq"}),
        ("quantize", {"method": "qat"}),
        ("distill", {"quantizers": QuantizeConfig()}),
    ],
)
def test_transfer_keeps_the_zeros(
    run: Run, sparse: Path, spec: DataSpec, stage: str, options: dict[str, Any]
) -> None:
    before, out = masks_in(sparse, spec), run(
        "next", stage=stage, model=sparse, keep_zeros=True, **options
    )  # fmt: skip
    opened = load_with_data(out, spec)
    if stage == "quantize" or "quantizers" in options:
        layers = integer_layers(opened.model.hf)
        for name, mask in before.items():
            assert not layers[name.removesuffix(".weight")].weight[~mask].any(), name
        return
    weights = dict(opened.model.hf.named_parameters())
    changed = 0
    for name, mask in before.items():
        if weights[name].shape == mask.shape:
            assert torch.equal(weights[name] != 0, mask), name
            changed += 1
    assert changed >= len(before) - 2 * len(sizes(opened))
    assert share(opened) > 0.65
    files = [sum(f.stat().st_size for f in one.glob("*.safetensors")) for one in (sparse, out)]
    assert files[1] <= files[0] * 1.01


@pytest.mark.parametrize("stage", ["finetune", "distill", "length_adapt"])
def test_without_it_the_zeros_are_lost(run: Run, sparse: Path, spec: DataSpec, stage: str) -> None:
    assert share(load_with_data(run("next", stage=stage, model=sparse), spec)) < 0.1


def test_zeros_of_a_dense_model_cannot_be_kept(run: Run, tiny_checkpoint: Path) -> None:
    with pytest.raises(QualaError, match="`keep_zeros` needs a pruned model"):
        run("next", stage="finetune", model=tiny_checkpoint, keep_zeros=True)


def test_a_step_that_grows_is_refused(run: Run, sparse: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(QualaError, match=r"`shrink\.sparsity` must be at least the 0\.7"):
        run("next", model=sparse, shrink=ShrinkConfig(sparsity=0.5, embeddings=False))
    small = run("small", shrink=ShrinkConfig(neurons=0.25), max_steps=1)
    with pytest.raises(QualaError, match=r"`shrink\.neurons` must be at most the"):
        run("wide", model=small, shrink=ShrinkConfig(neurons=0.5))


def test_an_integer_student_has_no_scores(run: Run) -> None:
    folder = run("int8", quantizers=QuantizeConfig(), max_steps=1)
    with pytest.raises(QualaError, match="cannot be trained further"):
        run("next", model=folder, shrink=ShrinkConfig(sparsity=0.5, score="fisher"))


BINARY = QuantizeConfig(weight_quantizer="bwn", weight_bits=1)


@pytest.mark.parametrize(
    ("stage", "options", "sentence"),
    [
        ("distill", {"shrink": ShrinkConfig(sparsity=0.5), "quantizers": BINARY},
         "`shrink` leaves zeros, which `weight_quantizer=bwn` has no code"),
        ("distill", {"keep_zeros": True, "quantizers": BINARY},
         "`keep_zeros` keeps zeros, which `weight_quantizer=bwn` has no code"),
        ("quantize", {"keep_zeros": True, "quantizers": BINARY}, "`keep_zeros` keeps zeros"),
        ("distill", {"keep_zeros": True, "split": True}, "`keep_zeros` leaves zeros"),
        ("distill", {"shrink": ShrinkConfig(embedding_rank=4), "freeze_word_embeddings": True},
         "`freeze_word_embeddings` must be false"),
        ("distill", {"shrink": ShrinkConfig(layers=3), "layers": 2},
         "`shrink.layers` must be at most the 2 of `layers`, got 3"),
    ],
)  # fmt: skip
def test_options_that_exclude_one_another_are_refused(
    configure: Any, stage: str, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(QualaError, match=sentence):
        configure(stage, **options)


def test_structure_alone_may_be_rounded_to_one_bit(configure: Any) -> None:
    configure("distill", shrink=ShrinkConfig(neurons=0.5), quantizers=BINARY)


@dataclasses.dataclass
class Named:
    """What a plan knows of a start model."""

    name: str
    value: str


def test_a_plan_knows_the_sizes_of_a_start_model(configure: Any, tiny_checkpoint: Path) -> None:
    config = configure("distill", layers=None, shrink=ShrinkConfig(layers=9))
    with pytest.raises(QualaError, match=r"`shrink\.layers` must be at most the 2 .*, got 9"):
        config.check_inputs({"teacher": Named("model.teacher", str(tiny_checkpoint))})


def test_what_ranks_units_learns_labels(configure: Any) -> None:
    for shrink, option in (
        (ShrinkConfig(heads=0.5), "shrink.heads"),
        (ShrinkConfig(neurons=0.5), "shrink.neurons"),
        (ShrinkConfig(sparsity=0.5, score="fisher"), "shrink.score"),
        (ShrinkConfig(sparsity=0.5), None),
    ):
        assert configure("distill", hard=0.0, shrink=shrink).learns_labels == option


def test_a_student_without_zeros_has_no_masks(teacher: Checkpoint) -> None:
    assert Student(teacher).masks == masks_of(teacher.model.hf) == {}
