"""The bits stage: what it leaves, its budgets, what it refuses, and a distillation at its bits."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quala.checkpoint import load_with_data
from quala.compress.experts import ExpertsConfig
from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.integer import IntegerLinear, bits_of, integer_layers
from quala.compress.quantize.sites import site_names
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.models.load import weights_file
from quala.search.bits import Sensitivity, read_bits
from quala.stages import bits, distill, quantize, search
from quala.stages.distill_options import BitsConfig
from quala.workflow import Source, StageContext
from quala.workflow.compose import composed, typed
from quala.workflow.script import find_workflow

LSQ = QuantizeConfig(
    weight_quantizer="lsq", weight_granularity="tensor", embedding_granularity="tensor"
)

STILL = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "max_steps": 1, "layers": None}


Options = Callable[..., BitsConfig]


@pytest.fixture(scope="module")
def options() -> Options:
    """Return the stage's default options at toy size, with changes."""
    workflow = find_workflow("autompq")
    own = typed(composed(workflow, ["~experiment"]), workflow).stages["bits"]
    toy = {"seed": 2, "inputs": 6, "batch_size": 4, "quantizers": LSQ}
    return lambda **changes: dataclasses.replace(own, **{**toy, **changes})


@pytest.fixture
def found(options: Options, spec: DataSpec, tiny_checkpoint: Path, tmp_path: Path) -> Any:
    """Return the stage as a function: options in, its folder out."""

    def done(name: str = "b", **changes: Any) -> Path:
        config = options(**changes)
        context = StageContext.alone("bits", tmp_path / name)
        bits.run(config, context, {"data": spec, "model": tiny_checkpoint})
        return context.output

    return done


@pytest.fixture
def student(configure: Any, spec: DataSpec, tiny_checkpoint: Path, tmp_path: Path) -> Any:
    """Return a distillation at the bits of a folder, as a function."""

    def done(folder: Path, quantizers: QuantizeConfig = LSQ) -> Path:
        config = configure("distill", quantizers=quantizers, relation=0.0, **STILL)
        context = StageContext.alone("distill", tmp_path / "student")
        distill.run(config, context, {"data": spec, "teacher": tiny_checkpoint, "bits": folder})
        return context.output

    return done


def test_a_student_has_the_bits_that_were_found(found: Any, student: Any, spec: DataSpec) -> None:
    folder = found(mean_bits=3.2, choices=[8, 2, 3, 4])
    result = read_bits(folder)
    widths, table = result.bits, result.table
    assert len(widths) == len(table) == 12
    assert all(list(row) == ["2", "3", "4", "8"] for row in table.values())
    assert result.mean_bits <= 3.2
    assert result.divergence["table"] == pytest.approx(
        sum(table[name][str(width)] for name, width in widths.items())
        if result.origin == "searched" else result.divergence["table"]
    )  # fmt: skip
    assert result.divergence[result.origin] == min(
        value for name, value in result.divergence.items() if name != "table"
    )
    assert {"uniform 2", "uniform 3"} < result.divergence.keys()
    assert "uniform 4" not in result.divergence  # dearer than the budget
    hf = load_with_data(student(folder), spec).model.hf
    layers = {n: m for n, m in integer_layers(hf).items() if isinstance(m, IntegerLinear)}
    names = site_names(hf, layers)
    assert {names[name][0]: layer.bits for name, layer in layers.items()} == widths
    assert bits_of(hf) == f"{'/'.join(map(str, sorted(set(widths.values()))))}-8-8"


def test_the_file_keeps_to_its_mebibytes(
    found: Any, student: Any, spec: DataSpec, tiny_checkpoint: Path, monkeypatch: Any
) -> None:
    rows = dataclasses.replace(LSQ, weight_granularity="row")
    whole = bits.file_bytes(load_with_data(tiny_checkpoint, spec).model.hf, rows)
    budget = whole / bits.MEBI * 0.98
    # Much better with more bits everywhere, so that the whole budget is used.
    monkeypatch.setattr(Sensitivity, "divergence", lambda _, b, layer=None: 0.5 ** sum(b.values()))
    folder = found(mean_bits=None, mebibytes=budget, quantizers=rows, choices=[0, 2, 3, 4, 5, 8])
    monkeypatch.undo()
    size = weights_file(student(folder, rows)).stat().st_size
    assert 0.97 * budget < size / bits.MEBI <= budget


def test_queries_and_keys_are_never_pruned_and_named_weights_keep_their_bits(found: Any) -> None:
    fixed = dataclasses.replace(LSQ, overrides={"layers.1.ffn_out": 5, "layers.0.query": 0})
    folder = found(mean_bits=1.5, choices=[0, 4], quantizers=fixed)
    result = read_bits(folder)
    assert result.bits["layers.1.ffn_out"] == 5
    assert result.bits["layers.0.query"] == 0  # as was asked
    assert list(result.table["layers.1.ffn_out"]) == ["5"]
    free = [name for name in result.bits if name not in fixed.overrides]
    ranking = [name for name in free if name.endswith(("query", "key"))]
    assert {result.bits[name] for name in ranking} == {4}
    assert {result.bits[name] for name in free} == {0, 4}


def test_a_stage_that_was_killed_goes_on(
    found: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = read_bits(found("whole"))
    asked: list[Any] = []
    measured = Sensitivity.divergence

    def dies(self: Sensitivity, sites: Any, layer: int | None = None) -> float:
        if len(asked) == 20:
            raise KeyboardInterrupt
        asked.append((sites, layer))
        return measured(self, sites, layer)

    monkeypatch.setattr(Sensitivity, "divergence", dies)
    with pytest.raises(KeyboardInterrupt):
        found("killed")
    kept = len(json.loads((tmp_path / "killed" / "scratch" / bits.TABLE).read_text()))
    assert kept == 5  # of 4 widths each
    asked.clear()
    monkeypatch.setattr(Sensitivity, "divergence", lambda *a: asked.append(a) or measured(*a))
    assert read_bits(found("killed")) == whole
    assert len(asked) == 4 * (12 - kept) + len(whole.divergence) - 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean_bits": 1.9}, r"`stage.bits.mean_bits` must be 2 to 8 with these `choices`"),
        ({"mean_bits": None, "mebibytes": 0.01}, r"`stage.bits.mebibytes` must be 0\.\d+ to"),
        ({"mean_bits": None, "mebibytes": 900.0}, r"`stage.bits.mebibytes` must be 0\.\d+ to"),
        (
            {"quantizers": dataclasses.replace(LSQ, overrides={"layers.7.key": 4})},
            "names no linear layer",
        ),
        (
            {"quantizers": QuantizeConfig(weight_granularity="group", weight_group=7)},
            "Groups of 7 do not fill",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_table(
    found: Any, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(Sensitivity, "divergence", None)
    with pytest.raises(QualaError, match=words):
        found(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mebibytes": 4.0}, "Either `mean_bits` or `mebibytes`"),
        ({"mean_bits": None}, "Either `mean_bits` or `mebibytes`"),
        ({"mean_bits": 8.5}, "at most 8"),
        ({"choices": [2, 9]}, "at most 8"),
        ({"choices": []}, "empty list"),
    ],
)
def test_options_that_say_nothing_are_refused(
    options: Options, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(QualaError, match=words):
        options(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantizers": None}, "needs `stage.distill.quantizers`"),
        ({"choices": [1, 2], "mean_bits": 2.0}, "0 or 2 to 8 bits, got 1"),
        ({"mean_bits": 1.9}, "`mean_bits` must be 2 to 8 with these `choices`, got 1.9"),
        (
            {"quantizers": QuantizeConfig(weight_quantizer="bwn", weight_bits=1)},
            "minmax or lsq, got bwn",
        ),
        (
            {"quantizers": QuantizeConfig(outliers=2), "mean_bits": None, "mebibytes": 1.0},
            "cannot count `quantizers.outliers`",
        ),
        (
            {"quantizers": QuantizeConfig(weight_granularity="group", weight_group=7)},
            "`quantizers.weight_group` must divide",
        ),
        ({"quantizers": QuantizeConfig(overrides={"layers.2.key": 4})}, "numbered from 0 to 1"),
    ],
)
def test_what_does_not_go_with_its_inputs_is_refused_while_planning(
    options: Options, tiny_checkpoint: Path, changes: dict[str, Any], words: str
) -> None:
    model = Source("model.teacher", str(tiny_checkpoint), "")
    with pytest.raises(QualaError, match=words):
        options(**changes).check_inputs({"model": model})


@pytest.mark.parametrize(
    "changes", [{"layers": 1}, {"width": 0.5}, {"quantizers": None}, {"experts": ExpertsConfig()}]
)
def test_bits_are_of_the_teachers_own_weights(configure: Any, changes: dict[str, Any]) -> None:
    config = configure("distill", **{"layers": None, "quantizers": LSQ, **changes})
    with pytest.raises(QualaError, match="teacher's own weights"):
        config.check_inputs({"teacher": None, "bits": None})


def test_lengths_are_not_dropped_without_queries_or_keys(
    configure: Any, spec: DataSpec, tiny_checkpoint: Path, student: Any, tmp_path: Path
) -> None:
    pruned = QuantizeConfig(overrides={"layers.0.query": 0})
    context = StageContext.alone("quantize", tmp_path / "q")
    inputs = {"data": spec, "model": tiny_checkpoint}
    with pytest.raises(QualaError, match=r"`layers.0.query` has 0 bits"):
        quantize.run(configure("quantize", method="ptq", quantizers=pruned), context, inputs)
    config = configure("distill", quantizers=pruned, relation=0.0, **STILL)
    made = StageContext.alone("distill", tmp_path / "d")
    distill.run(config, made, {"data": spec, "teacher": tiny_checkpoint})  # full length is fine
    context = StageContext.alone("search", tmp_path / "s")
    with pytest.raises(QualaError, match=r"`layers.0.query` has 0 bits"):
        search.run(configure("search"), context, {"data": spec, "model": made.output})
