"""From one training on rounded weights to the next: latent weights, and binary halves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from quala.checkpoint import Checkpoint, load_with_data, score_slice
from quala.compress.prune.config import ShrinkConfig
from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.latent import LATENT_FILE, read_latent
from quala.compress.quantize.split import Split
from quala.cost import macs
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.models.load import weights_file
from quala.stages import distill, finetune, student
from quala.stages.student import open_student, split
from quala.workflow import StageContext

STILL = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
TWN = QuantizeConfig(
    weight_quantizer="twn", weight_bits=2, weight_granularity="tensor",
    embedding_quantizer="twn", embedding_bits=2,
    skip=("qa_outputs", "position_embeddings", "token_type_embeddings"),
)  # fmt: skip
LAT = dataclasses.replace(TWN, weight_quantizer="lat")
LSQ = QuantizeConfig(weight_quantizer="lsq", weight_bits=4, activation_range="lsq")


@pytest.fixture
def run(
    configure: Any, spec: DataSpec, tiny_checkpoint: Path, tmp_path: Path
) -> Callable[..., Any]:
    """Return the stage as a function: options in, its folder and figures out."""

    def done(
        name: str = "ternary", *, model: Path | None = None, **changes: Any
    ) -> tuple[Path, dict[str, float]]:
        config = configure("distill", **{"max_steps": 2, "layers": None, **STILL, **changes})
        context = StageContext.alone("distill", tmp_path / name)
        inputs = {"data": spec, "teacher": tiny_checkpoint} | ({"model": model} if model else {})
        return context.output, distill.run(config, context, inputs)

    return done


def _rounded(layer: Any) -> torch.Tensor:
    with torch.no_grad():
        rounded: torch.Tensor = layer.weight_quantizer(layer.weight)
    return rounded


def _logits(opened: Checkpoint) -> torch.Tensor:
    features = opened.data.train.features
    with torch.no_grad():
        return opened.model.double().eval()(features.batch([0, 1, 2]))


@pytest.mark.parametrize("quantizers", [TWN, LAT, LSQ], ids=["twn", "lat", "lsq"])
def test_the_next_training_opens_what_the_last_one_left(
    run: Any,
    configure: Any,
    spec: DataSpec,
    monkeypatch: pytest.MonkeyPatch,
    quantizers: QuantizeConfig,
) -> None:
    left: dict[str, torch.Tensor] = {}
    save = student.save_latent

    def watched(model: torch.nn.Module, folder: Path) -> None:
        left.update({name: value.clone() for name, value in model.state_dict().items()})
        save(model, folder)

    monkeypatch.setattr(student, "save_latent", watched)
    folder, _ = run(quantizers=quantizers, latent=True)
    opened = open_student(folder, spec, configure("distill", quantizers=quantizers))
    found = opened.model.hf.state_dict()
    assert found.keys() == left.keys()
    assert all(torch.equal(found[name], left[name]) for name in left)


def test_the_stage_still_leaves_integers(run: Any, spec: DataSpec) -> None:
    with_latent, figures = run("with", quantizers=TWN, latent=True)
    without, _ = run("without", quantizers=TWN)
    weights = [load_file(weights_file(folder)) for folder in (with_latent, without)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    opened = load_with_data(with_latent, spec)
    assert opened.precision == "w2e2a8"
    score = score_slice(opened, opened.data.selection, batch_size=8)["f1"]
    assert score == pytest.approx(figures["selection/f1"])
    assert not (without / LATENT_FILE).exists()


def test_integers_and_training_form_answer_alike(run: Any, configure: Any, spec: DataSpec) -> None:
    folder, _ = run(quantizers=TWN, latent=True)
    training = open_student(folder, spec, configure("distill"))
    integers = load_with_data(folder, spec)
    for layer in integers.model.modules():
        if hasattr(layer, "_integer"):
            layer._integer = False  # the float path, whatever the processor
    batch = integers.data.train.features.batch([0, 1, 2])
    with torch.no_grad():
        one, other = integers.model(batch), training.model.eval()(batch)
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_a_second_training_moves_the_latent_weights(run: Any) -> None:
    first, _ = run("first", quantizers=TWN, latent=True)
    still, _ = run("still", model=first, latent=True, learning_rate=0.0)
    moved, _ = run("moved", model=first, latent=True)
    before, same, after = (read_latent(one).tensors for one in (first, still, moved))
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(before[name], same[name])
    assert not torch.equal(before[name], after[name])
    assert (before[name] - after[name]).abs().max() < 0.01  # no step leads from integers to here


def test_other_quantizers_start_from_the_latent_weights(
    run: Any, configure: Any, spec: DataSpec
) -> None:
    wide = QuantizeConfig()
    first, _ = run("first", quantizers=wide, latent=True)
    narrow, _ = run("narrow", model=first, quantizers=TWN, latent=True, learning_rate=0.0)
    before, after = (read_latent(one).tensors for one in (first, narrow))
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(before[name], after[name])
    assert load_with_data(narrow, spec).precision == "w2e2a8"


def test_integers_without_latent_weights_are_refused(run: Any) -> None:
    folder, _ = run(quantizers=TWN)
    with pytest.raises(QualaError, match=r"w2e2a8 weights only, .* make it with `latent=true`"):
        run("next", model=folder, quantizers=TWN)


def test_a_float_student_has_no_latent_weights_to_keep(run: Any) -> None:
    with pytest.raises(QualaError, match="got a float student"):
        run(latent=True)


@pytest.mark.parametrize("quantizers", [TWN, LAT], ids=["twn", "lat"])
@pytest.mark.parametrize("width", [1.0, 0.5])
def test_a_split_student_starts_as_the_ternary_one(
    run: Any, configure: Any, spec: DataSpec, quantizers: QuantizeConfig, width: float
) -> None:
    folder, _ = run(quantizers=quantizers, latent=True, width=width, learning_rate=1e-2)
    config = configure("distill", split=True)
    ternary, halved = (open_student(folder, spec, config) for _ in range(2))
    split(halved.model.hf)
    ternary_layers = sum("input_quantizer.step" in name for name in ternary.model.state_dict())
    halves = sum("input_quantizer.step" in name for name in halved.model.state_dict())
    assert halves == 2 * ternary_layers > 0
    whole = dict(ternary.model.hf.named_modules())
    for name, module in halved.model.hf.named_modules():
        if isinstance(module, Split):
            halves_sum = _rounded(module.first) + _rounded(module.second)
            torch.testing.assert_close(halves_sum, _rounded(whole[name]), atol=1e-6, rtol=0)
    # An input between two integers may fall to the other one by the seventh digit of a weight.
    torch.testing.assert_close(_logits(halved), _logits(ternary), atol=1e-2, rtol=0)


def test_rows_that_hardly_split_do_not_stop_the_recipe(
    run: Any, configure: Any, spec: DataSpec
) -> None:
    folder, _ = run(quantizers=TWN, latent=True)
    config = configure("distill", split=True)
    ternary, halved = (open_student(folder, spec, config) for _ in range(2))
    words = torch.full((32,), 0.03)  # all of one sign, two far larger than the rest
    words[:2] = 3.0
    for opened in (ternary, halved):
        with torch.no_grad():
            opened.model.hf.get_input_embeddings().weight[::2] = words
            opened.model.hf.get_input_embeddings().weight[1] = 0
    split(halved.model.hf)
    whole = dict(ternary.model.hf.named_modules())
    for name, module in halved.model.hf.named_modules():
        if isinstance(module, Split):
            halves_sum = _rounded(module.first) + _rounded(module.second)
            torch.testing.assert_close(halves_sum, _rounded(whole[name]), atol=1e-6, rtol=0)
    # An input between two integers may fall to the other one by the seventh digit of a weight.
    torch.testing.assert_close(_logits(halved), _logits(ternary), atol=1e-2, rtol=0)


def test_a_split_student_is_saved_at_one_bit(run: Any, spec: DataSpec) -> None:
    first, _ = run("first", quantizers=TWN, latent=True)
    folder, figures = run("second", model=first, split=True)
    opened = load_with_data(folder, spec)
    assert opened.precision == "w1e1a8"
    score = score_slice(opened, opened.data.selection, batch_size=8)["f1"]
    assert score == pytest.approx(figures["selection/f1"])
    names = json.loads((folder / "quala.json").read_text())["quantization"]["split"]
    assert len(names) == 2 * 6 + 1


def test_both_halves_count_as_work(run: Any, spec: DataSpec) -> None:
    first, _ = run("first", quantizers=TWN, latent=True)
    folder, _ = run("second", model=first, split=True)
    ternary, binary = (load_with_data(one, spec).model.arch for one in (first, folder))
    linears = 2 * (4 * 32 * 32 + 2 * 32 * 64)
    assert macs(binary, (128, 128), 128) - macs(ternary, (128, 128), 128) == 128 * linears


def test_a_split_student_goes_on_too(run: Any, configure: Any, spec: DataSpec) -> None:
    first, _ = run("first", quantizers=TWN, latent=True)
    second, _ = run("second", model=first, split=True, latent=True)
    third, _ = run("third", model=second, latent=True, learning_rate=0.0)
    assert load_with_data(third, spec).precision == "w1e1a8"
    name = "bert.encoder.layer.0.output.dense.first.weight"
    assert torch.equal(read_latent(second).tensors[name], read_latent(third).tensors[name])


def test_halves_become_whole_where_they_are_rounded_anew(run: Any, spec: DataSpec) -> None:
    first, _ = run("first", quantizers=TWN, latent=True)
    second, _ = run("second", model=first, split=True, latent=True)
    third, _ = run("third", model=second, quantizers=QuantizeConfig())
    whole, again = (load_with_data(one, spec).model.arch for one in (first, third))
    assert again == whole


def test_a_fresh_student_may_be_split_at_once(run: Any, spec: DataSpec) -> None:
    folder, _ = run(quantizers=TWN, split=True)
    assert load_with_data(folder, spec).precision == "w1e1a8"


def test_a_student_is_split_as_it_was_trained(run: Any) -> None:
    folder, _ = run("first", quantizers=LAT, latent=True)
    with pytest.raises(QualaError, match=r"`quantizers.weight_quantizer` is lat, got twn"):
        run("second", model=folder, quantizers=TWN, split=True)


def test_halves_cannot_hold_pruned_weights(configure: Any) -> None:
    with pytest.raises(QualaError, match="`shrink` leaves zeros, which the halves"):
        configure("distill", split=True, shrink=ShrinkConfig(ratio=2.0))


def test_only_ternary_weights_are_split(run: Any, configure: Any) -> None:
    with pytest.raises(QualaError, match="one of twn, lat, lat_exact, got lsq"):
        configure("distill", split=True, quantizers=LSQ)
    with pytest.raises(QualaError, match="got a float student"):
        run(split=True)


def test_a_split_classifier_answers_and_exports_as_the_ternary_one(
    run: Any, configure: Any, sentences: DataSpec, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from onnx.reference import ReferenceEvaluator

    from quala.graph.encoder import build_graph

    config = configure(
        "distill", quantizers=TWN, split=True, max_steps=1, learning_rate=0.0, **STILL
    )
    tuned = StageContext.alone("finetune", tmp_path / "teacher")
    inputs = {"data": sentences, "model": tiny_checkpoint}
    finetune.run(configure("finetune", max_steps=1), tuned, inputs)
    context = StageContext.alone("distill", tmp_path / "classes")
    distill.run(config, context, {"data": sentences, "teacher": tuned.output})
    opened = load_with_data(context.output, sentences)
    names = json.loads((context.output / "quala.json").read_text())["quantization"]["split"]
    assert "bert.pooler.dense" in names
    batch = opened.data.test.features.batch([0, 1])
    graph = ReferenceEvaluator(build_graph(opened.model, sequence_length=32))
    words = {n: batch[n].numpy() for n in ("input_ids", "attention_mask", "segment_ids")}
    lengths = torch.full((opened.model.num_layers,), 32).numpy()
    (logits,) = graph.run(None, {**words, "lengths": lengths})
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(logits), opened.model(batch), atol=1e-3, rtol=0
        )
