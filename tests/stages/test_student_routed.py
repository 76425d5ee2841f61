"""A student of experts: what routes its tokens, what it is trained on, and where it goes then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import BuildHf, build_hf

from quala.architecture import KEY, LayerSizes, Structure
from quala.checkpoint import load_with_data
from quala.compress.experts import ExpertsConfig, route_tables
from quala.compress.kernels import IntegerLayerNorm
from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.integer import IntegerLinear
from quala.compress.quantize.modules import QuantLinear
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.lengths import LengthConfig
from quala.models.experts import Experts
from quala.stages import distill, length_adapt
from quala.stages.distill_options import ShrinkConfig
from quala.stages.student import make_student
from quala.workflow import StageContext

__all__ = ["build_hf"]

EXPERTS = ExpertsConfig(count=2, size=0.25, shared=0.5)
LOSSES = {"soft": 0.0, "attention": 0.0, "hidden": 2.0, "hard": 1.0, "losses": {"symmetric": 2.0}}


@pytest.fixture
def run(configure: Any, spec: DataSpec, tiny_checkpoint: Path, tmp_path: Path) -> Any:
    """Return a stage as a function: options in, its folder out."""

    def done(
        stage: Any, name: str, place: str = "a", *, model: Path | None = None, **changes: Any
    ) -> Path:
        output, scratch = tmp_path / place / "output", tmp_path / place / "scratch"
        scratch.mkdir(parents=True)
        start = {"model": model} if model else {"teacher": tiny_checkpoint}
        config = configure(name, **{"max_steps": 1, **changes})
        stage.run(config, StageContext(name, output, scratch), {"data": spec} | start)
        return output

    return done


def test_a_routed_student_goes_on_to_length_adapt(run: Any, spec: DataSpec) -> None:
    folder = run(distill, "distill", layers=None, experts=EXPERTS, seed=3, **LOSSES)
    student = load_with_data(folder, spec)
    config = student.model.hf.config
    counts = torch.zeros(config.vocab_size, dtype=torch.long).numpy()
    wanted = route_tables(EXPERTS, layers=2, seed=3, counts=counts)
    tables = [
        module.table.tolist()
        for module in student.model.hf.modules()
        if isinstance(module, Experts) and module.table is not None
    ]
    assert tables == wanted.tolist()
    assert [size.intermediate for size in student.model.arch.sizes] == [16, 16]
    adapted = load_with_data(run(length_adapt, "length_adapt", "b", model=folder), spec).model
    state = adapted.hf.state_dict()
    assert state["bert.encoder.layer.1.intermediate.dense.table"].tolist() == tables[1]
    batch = student.data.test.features.batch(range(2))
    short = adapted(batch, LengthConfig((64, 8), 128))
    assert not torch.equal(short, adapted(batch))


def test_experts_are_rounded_and_route_as_before(run: Any, spec: DataSpec) -> None:
    options = {"layers": None, "experts": EXPERTS, "seed": 3, **LOSSES}
    whole = load_with_data(run(distill, "distill", **options), spec)
    rounded = load_with_data(
        run(distill, "distill", "int8", quantizers=QuantizeConfig(), **options), spec
    )
    assert rounded.precision == "int8"
    own, other = (one.model.hf.state_dict() for one in (whole, rounded))
    tables = [name for name in own if name.endswith("table")]
    assert len(tables) == 2
    assert all(torch.equal(own[name], other[name]) for name in tables)
    kind = type(rounded.model.hf.get_submodule("bert.encoder.layer.0.intermediate.dense.1"))
    assert kind is IntegerLinear
    batch = whole.data.test.features.batch(range(2))
    torch.testing.assert_close(rounded.model(batch), whole.model(batch), atol=0.05, rtol=0.0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"width": 0.5}, "from whole dense layers, got `width` too"),
        ({"shrink": ShrinkConfig(2.0)}, "from whole dense layers, got `shrink` too"),
        ({"split": True}, "from whole dense layers, got `split` too"),
    ],
)
def test_experts_of_a_student_made_smaller_otherwise_are_refused(
    configure: Any, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(QualaError, match=sentence):
        configure("distill", experts=EXPERTS, **changes)


@pytest.mark.parametrize(
    ("family", "options", "sentence"),
    [
        ("albert", {}, "ALBERT's layers cannot be factorized or cut"),
        ("bert", {"size": 0.3}, "share of the layers' 32 neurons that gives a whole number"),
        ("bert", {"count": 5, "size": 0.25, "shared": 0}, "5 experts of 8 neurons, 0 of them sha"),
        ("bert", {}, None),
    ],
)
def test_what_a_teacher_cannot_be_cut_into_is_refused_before_any_stage(
    configure: Any,
    build_hf: BuildHf,
    tmp_path: Path,
    family: str,
    options: dict[str, Any],
    sentence: str | None,
) -> None:
    build_hf(family).config.save_pretrained(tmp_path)
    inputs = {"teacher": Named("model.teacher", str(tmp_path))}
    config = configure("distill", layers=2, experts=replace(EXPERTS, **options))
    if sentence is None:
        config.check_inputs(inputs)
        return
    with pytest.raises(QualaError, match=sentence):
        config.check_inputs(inputs)


def test_experts_of_an_opened_student_are_refused(configure: Any, tiny_checkpoint: Path) -> None:
    config = configure("distill", layers=None, experts=EXPERTS)
    with pytest.raises(QualaError, match="copied from the teacher, got a student of its own"):
        config.check_inputs({"teacher": tiny_checkpoint, "model": tiny_checkpoint})


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"width": 0.5}, "width"),
        ({"experts": EXPERTS}, "experts"),
        ({"shrink": ShrinkConfig(heads=0.5)}, "shrink.heads"),
        ({"shrink": ShrinkConfig(sparsity=0.5)}, "shrink.sparsity"),
        ({"shrink": ShrinkConfig(layers=1)}, None),
    ],
)
def test_a_routed_teacher_is_cut_no_further(
    configure: Any, build_hf: BuildHf, tmp_path: Path, changes: dict[str, Any], option: str | None
) -> None:
    config = build_hf("bert").config
    layers = tuple(LayerSizes(heads=4, intermediate=8, experts=2) for _ in range(3))
    setattr(config, KEY, Structure(layers).to_json())
    config.save_pretrained(tmp_path)
    inputs = {"teacher": Named("model.teacher", str(tmp_path))}
    found = configure("distill", layers=None, **changes)
    if option is None:
        found.check_inputs(inputs)
        return
    with pytest.raises(QualaError, match=f"`{option}` cuts dense feed-forwards"):
        found.check_inputs(inputs)


def test_overrides_name_all_experts_or_one_and_each_has_its_kernel(
    configure: Any, spec: DataSpec, tiny_checkpoint: Path
) -> None:
    overrides = {"ffn_in": 4, "layers.1.ffn_out.1": 3}
    quantizers = QuantizeConfig(overrides=overrides, kernels=("gelu", "layernorm"))
    config = configure("distill", layers=None, experts=EXPERTS, quantizers=quantizers)
    teacher = load_with_data(tiny_checkpoint, spec)
    hf = make_student(config, teacher, {"teacher": tiny_checkpoint, "data": spec}).model.hf
    bits = {
        name.split("layer.")[1]: module.weight_quantizer.spec.bits
        for name, module in hf.named_modules()
        if isinstance(module, QuantLinear)
    }
    wanted = {f"{layer}.intermediate.dense.{one}": 4 for layer in (0, 1) for one in (0, 1)}
    wanted["1.output.dense.1"] = 3
    assert {name: width for name, width in bits.items() if width < 8} == wanted
    norms = [module for module in hf.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert [type(norm) for norm in norms] == [IntegerLayerNorm] * (1 + 2 * (1 + 2))


class Named:
    """What a start model in a folder is to a plan."""

    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value
