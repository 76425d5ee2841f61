"""Training of widths and depths: which units run, what is followed, what is recorded, refusals."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toys import BuildHf, build_hf

from quala.checkpoint import (
    Checkpoint,
    cut_out,
    load_any_model,
    load_with_data,
    metadata,
    predict,
)
from quala.compress.experts import ExpertsConfig
from quala.compress.losses import hidden_loss, soft_loss
from quala.compress.prune.structured import Importance, keep_units, taylor_importance
from quala.compress.prune.views import run_layers
from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.integer import to_integer
from quala.compress.structure import keep_layers
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.lengths import LengthConfig, Units
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import save_model
from quala.stages import finetune, length_adapt, quantize
from quala.stages.length_adapt import SandwichModule, make_elastic, state_pairs
from quala.stages.teacher import LiveTeacher
from quala.stages.training import fit, plan_training, train_batches
from quala.workflow import Source, StageContext

__all__ = ["build_hf"]

ELASTIC = {"widths": [0.5, 1.0], "depths": [1.0, 0.5], "exits": 0.0, "significance": "question"}
DYNABERT = {
    **ELASTIC, "all_structures": True, "bound": 0.0, "hidden": 0.5, "teacher_for_subs": True,
    "teacher": 1.0, "hard": 0.0, "sub_hard": 0.0,
}  # fmt: skip


@pytest.fixture
def opened(tiny_checkpoint: Path, spec: DataSpec) -> Checkpoint:
    return load_with_data(tiny_checkpoint, spec)


def module_of(opened: Checkpoint, config: Any, **options: Any) -> SandwichModule:
    plan = plan_training(opened.data.train.features, config, pad_to=opened.pad_to)
    structures = make_elastic(opened, config)
    return SandwichModule(
        opened.model, config, plan, sequence_length=128, structures=structures, **options
    )


def test_units_are_sorted_once_and_the_sub_networks_recorded(
    opened: Checkpoint, configure: Any
) -> None:
    config = configure("length_adapt", **ELASTIC)
    model, whole = opened.model, opened.model.arch.sizes[0]
    before = model(opened.data.train.features.batch(range(4)))
    structures = make_elastic(opened, config)
    half = Units(whole.heads // 2, whole.intermediate // 2)
    full = Units(whole.heads, whole.intermediate)
    assert structures == [(), (half, half), (full, None), (half, None)]  # the least comes last
    assert model.structures == structures
    after = model(opened.data.train.features.batch(range(4)))
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
    scores: Importance = taylor_importance(
        model.hf,
        train_batches(opened, config, config.importance_batches),
        lambda batch: model.task.loss(model(batch), batch),
    )
    for one in (*scores.heads, *scores.neurons):
        assert (one.diff() <= 1e-4 * one.max()).all()  # falling
    weights = {name: item.clone() for name, item in model.hf.state_dict().items()}
    make_elastic(opened, config)  # a second training stays in the order of the first
    assert all(torch.equal(item, weights[name]) for name, item in model.hf.state_dict().items())


def test_a_pass_trains_the_prefix_of_its_structure_alone(
    opened: Checkpoint, configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SandwichModule, "manual_backward", lambda self, loss: loss.backward())
    module = module_of(opened, configure("length_adapt", **ELASTIC, sub_hard=0.0))
    batch = opened.data.train.features.batch(range(4))
    target = module.model(batch).detach()
    layers = module.structures[-1]
    lengths = LengthConfig((60, 60), 128).of(layers)
    module._sub_pass(batch, target, lengths, lengths.left_out, 1.0)
    blocks = [
        module.model.family.block(one) for one in module.model.family.layers(module.model.hf)
    ]
    first = blocks[0].ffn_out.weight.grad
    assert first is not None
    neurons = layers[0].neurons if layers[0] else 0
    assert first[:, :neurons].abs().sum() > 0
    assert first[:, neurons:].abs().sum() == 0
    assert all(weight.grad is None for weight in blocks[1].ffn_out.parameters())
    # The loss is that of the model that is cut out.
    module.model.eval()
    part = cut_out(module.model, layers)
    wanted = soft_loss(
        part.task, part(batch, lengths.extracted), target, batch,
        direction=module.sandwich.direction, temperature=module.sandwich.temperature,
    )  # fmt: skip
    found = module._sub_pass(batch, target, lengths, lengths.left_out, 1.0)
    torch.testing.assert_close(found, wanted.detach())


def test_every_structure_follows_the_states_of_the_teacher(
    opened: Checkpoint, tiny_checkpoint: Path, spec: DataSpec, configure: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(SandwichModule, "manual_backward", lambda self, loss: losses.append(loss))
    losses: list[torch.Tensor] = []
    teacher = load_with_data(tiny_checkpoint, spec).model
    with torch.no_grad():  # a teacher that is not the student
        for weight in teacher.hf.parameters():
            weight.add_(0.01)
    config = configure("length_adapt", **DYNABERT)
    module = module_of(opened, config, teacher=LiveTeacher(teacher))
    module.model.eval()
    assert module.passes == 4
    assert [module._structure(Random(0), number) for number in range(4)] == module.structures
    batch = opened.data.train.features.batch(range(4))
    target = module._full_pass(batch, Random(0), 1.0)
    torch.testing.assert_close(target, teacher(batch))
    trace = teacher.trace(batch)
    for layers in module.structures[1:]:
        lengths = LengthConfig.full(layers=2, sequence_length=128).of(layers)
        module._sub_pass(batch, target, lengths, lengths.left_out, 1.0)
        part = cut_out(module.model, layers).trace(batch)
        pairs = [(0, 0), (1, 1), (2, 2)] if None not in layers else [(0, 0), (1, 2)]
        mask = batch["attention_mask"]
        wanted = soft_loss(
            teacher.task, part.logits, target, batch, direction=config.direction,
            temperature=config.temperature,
        ) + 0.5 * hidden_loss(part.hidden, trace.hidden, pairs=pairs, mask=mask)  # fmt: skip
        torch.testing.assert_close(losses[-1], wanted)


def test_the_states_that_are_paired() -> None:
    units = Units(2, 8)
    assert state_pairs((units, None, units, None), 4) == [(0, 0), (1, 1), (2, 4)]
    assert state_pairs((), 2) == [(0, 0), (1, 1), (2, 2)]


def test_a_supernet_is_saved_with_its_structures_and_rounded_with_them(
    tiny_checkpoint: Path, spec: DataSpec, configure: Any, tmp_path: Path
) -> None:
    config = configure("length_adapt", **ELASTIC, max_steps=2)
    context = StageContext.alone("length_adapt", tmp_path / "float")
    length_adapt.run(config, context, {"model": tiny_checkpoint, "data": spec})
    trained = load_with_data(context.output, spec)
    assert len(trained.model.structures) == 4
    rounded = StageContext.alone("quantize", tmp_path / "int8")
    for method in ("ptq", "qat"):
        settings = configure("quantize", method=method, max_steps=2, sampler="few_drops")
        inputs = {"model": context.output, "data": spec, "teacher": context.output}
        quantize.run(settings, rounded, inputs)
        integer = load_any_model(rounded.output)
        assert integer.structures == trained.model.structures
        features = trained.data.test.features
        for layers in trained.model.structures:
            lengths = LengthConfig((90, 60), 128).of(layers)
            options: Any = {"batch_size": 8, "pad_to": None, "lengths": lengths}
            one, other = (predict(m, features, **options) for m in (trained.model, integer))
            apart = max(float(abs(a - b).max()) for a, b in zip(one, other, strict=True))
            assert apart < 0.3
    with pytest.raises(QualaError, match="runs all of its units"):
        integer(features.batch([0]), lengths)


def test_a_training_goes_on_as_if_it_had_not_stopped(
    tiny_checkpoint: Path, spec: DataSpec, configure: Any, tmp_path: Path
) -> None:
    def trained(folder: Path, steps: list[int]) -> dict[str, torch.Tensor]:
        for last in steps:
            config = configure("length_adapt", **ELASTIC, max_steps=4, checkpoint_minutes=1e-9)
            opened = load_with_data(tiny_checkpoint, spec)
            module = module_of(opened, config)
            if last < 4:
                module.on_train_batch_end = _stopping(module, last)  # type: ignore[method-assign]
            try:
                fit(module, StageContext.alone("length_adapt", folder))
            except KeyboardInterrupt:
                continue
        return module.model.hf.state_dict()

    whole, resumed = trained(tmp_path / "a", [4]), trained(tmp_path / "b", [2, 4])
    assert all(torch.equal(item, resumed[name]) for name, item in whole.items())


def _stopping(module: SandwichModule, last: int) -> Callable[..., None]:
    def stop(*_: Any) -> None:
        if module.global_step > last:
            raise KeyboardInterrupt

    return stop


QUANTIZERS = {
    "int8": {},
    "steps per row": {"weight_quantizer": "lsq", "weight_granularity": "row"},
    "groups": {"weight_granularity": "group", "weight_group": 16},
    "ternary": {"weight_quantizer": "twn", "weight_bits": 2},
    "loss-aware": {"weight_quantizer": "lat", "weight_bits": 2},
}


@pytest.mark.parametrize("options", QUANTIZERS.values(), ids=QUANTIZERS.keys())
def test_a_narrow_pass_rounds_as_the_integers_of_the_whole_model(
    options: dict[str, Any], opened: Checkpoint, configure: Any
) -> None:
    model, batch = opened.model.eval(), opened.data.train.features.batch(range(4))
    make_elastic(opened, configure("length_adapt", **ELASTIC, importance_batches=1))
    config = configure("quantize", calibration_batches=2)
    quantize.fake_quantize(opened, QuantizeConfig(**options), config)
    lengths = LengthConfig((90, 60), 128).of(model.structures[1])
    with torch.no_grad():
        found = run_layers(model, batch, lengths.layers, lengths)
        whole = model(batch)
    model.hf = to_integer(model.hf)
    part = cut_out(model, lengths.layers)
    torch.testing.assert_close(found, part(batch, lengths.extracted), atol=0.01, rtol=0)
    torch.testing.assert_close(whole, model(batch), atol=0.01, rtol=0)  # nothing stays narrow


def test_a_rounded_training_is_scored_on_the_way(
    tiny_checkpoint: Path, spec: DataSpec, configure: Any, tmp_path: Path
) -> None:
    config = configure("length_adapt", **ELASTIC, max_steps=1)
    context = StageContext.alone("length_adapt", tmp_path / "float")
    length_adapt.run(config, context, {"model": tiny_checkpoint, "data": spec})
    settings = configure(
        "quantize", method="qat", max_steps=2, selection_every=1, sampler="few_drops"
    )
    inputs = {"model": context.output, "data": spec, "teacher": context.output}
    figures = quantize.run(settings, StageContext.alone("quantize", tmp_path / "int8"), inputs)
    assert "selection/smallest" in figures


def test_groups_that_a_sub_network_divides_are_refused(opened: Checkpoint, configure: Any) -> None:
    make_elastic(opened, configure("length_adapt", **ELASTIC, importance_batches=1))
    with pytest.raises(QualaError, match="must divide the columns of all sub-networks, 16 of"):
        quantize.check_groups(
            opened.model, QuantizeConfig(weight_granularity="group", weight_group=32)
        )


def test_widths_are_sorted_after_a_training_of_depths_alone(
    opened: Checkpoint, configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sorts: list[str] = []
    monkeypatch.setattr(length_adapt, "sort_width", lambda hf, _: sorts.append("sort") or hf)
    for options, times in (({**ELASTIC, "widths": [1.0]}, 0), (ELASTIC, 1), (ELASTIC, 1)):
        make_elastic(opened, configure("length_adapt", **options, importance_batches=1))
        assert len(sorts) == times


def test_a_training_of_the_whole_model_ends_its_sub_networks(
    opened: Checkpoint, spec: DataSpec, configure: Any, tmp_path: Path
) -> None:
    make_elastic(opened, configure("length_adapt", **ELASTIC, importance_batches=1))
    for changed in (keep_layers(opened.model.hf, [0]), keep_units(opened.model.hf)):
        assert LengthAdaptiveModel(changed).structures == []
    source = tmp_path / "elastic"
    save_model(opened.model, opened.tokenizer, source, metadata=metadata(opened))
    assert len(load_any_model(source).structures) == 4
    plain = {"exits": 0.0, "significance": "question"}
    stages: Any = ((finetune, "finetune", {}), (length_adapt, "length_adapt", plain))
    for stage, name, options in stages:
        context = StageContext.alone(name, tmp_path / name)
        config = configure(name, max_steps=1, **options)
        stage.run(config, context, {"model": source, "data": spec})
        assert load_any_model(context.output).structures == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": [0.5]}, "`widths` must have 1.0 and each value once"),
        ({"widths": [1.0, 0.5, 0.5]}, "each value once"),
        ({"depths": [1.0, 0.0]}, "`depths` must be above 0"),
        ({"hidden": 1.0}, "`hidden` needs several"),
        ({"all_structures": True}, "`all_structures` needs several"),
        ({"depths": [1.0, 0.5], "layer_drop": 0.2}, "`depths` or `layer_drop`"),
        ({"widths": [1.0, 0.5], "all_structures": True, "bound": 0.3}, "`bound` must be 0"),
        ({"widths": [1.0, 0.5], "significance": "span"}, "needs no training at every layer"),
    ],
)
def test_what_makes_no_elastic_training_is_refused(
    options: dict[str, Any], message: str, configure: Any
) -> None:
    with pytest.raises(QualaError, match=message):
        configure("length_adapt", **options)


def test_widths_of_one_size_are_refused(opened: Checkpoint, configure: Any) -> None:
    config = configure("length_adapt", widths=[1.0, 0.501, 0.5])
    with pytest.raises(QualaError, match="give the same sizes"):
        make_elastic(opened, config)


def test_widths_of_what_cannot_be_cut_are_refused_while_planning(
    configure: Any, build_hf: BuildHf, tmp_path: Path
) -> None:
    def planned(stage: str, source: Any, **changes: Any) -> Any:
        config = configure(stage, **changes)
        name = "teacher" if stage == "distill" else "model"
        return SimpleNamespace(config=config, given=None, inputs={name: source})

    elastic = configure("length_adapt", **ELASTIC)
    build_hf("mpnet").config.save_pretrained(tmp_path / "mpnet")
    with pytest.raises(QualaError, match="cannot be removed"):
        elastic.check_inputs({"model": Source("model.teacher", str(tmp_path / "mpnet"), "")})
    build_hf().config.save_pretrained(tmp_path / "bert")
    teacher = planned("finetune", Source("model.teacher", str(tmp_path / "bert"), ""))
    for count, refused in ((2, True), (1, False)):
        experts = ExpertsConfig(count=count, size=0.25)
        student = planned("distill", teacher, layers=None, experts=experts)
        with (
            pytest.raises(QualaError, match=r"`widths` .* are experts")
            if refused
            else nullcontext()
        ):
            elastic.check_inputs({"model": student})
    deep = configure("length_adapt", **{**ELASTIC, "widths": [1.0]})
    deep.check_inputs({"model": planned("distill", teacher, experts=ExpertsConfig())})
