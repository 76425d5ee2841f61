"""Removed units against the same units at zero, in Hugging Face's forward and in ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from toys import RESIZED, TASKS, BuildHf, MakeBatch, removable
from transformers import PreTrainedModel

from quala.architecture import KEY
from quala.compress.prune.structured import (
    Importance,
    extract,
    keep_units,
    sort_width,
    taylor_importance,
    units_of,
)
from quala.compress.prune.views import prefix_views, run_layers
from quala.compress.shrink import factorize
from quala.compress.structure import structure_of
from quala.cost import macs, parameters, size_bytes
from quala.errors import QualaError
from quala.lengths import Layers, LengthConfig, Units, elastic_layers
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.families import family_of

HEADS = [[0, 2], [3], [0, 1, 2, 3]]
NEURONS = [list(range(0, 32, 2)), [5, 31], list(range(30))]
LENGTHS = LengthConfig((20, 11, 5), 32)


def masked(hf: Any, heads: Any = HEADS, neurons: Any = NEURONS) -> None:
    """Zero what the units that shall go hand on, in `hf` itself."""
    family = family_of(hf)
    for layer, kept, inner in zip(family.layers(hf), heads, neurons, strict=True):
        block: Any = family.block(layer)
        columns = [4 * head + i for head in kept for i in range(4)]
        for reader, places in ((block.attention_out, columns), (block.ffn_out, inner)):

            def hook(_: Any, inputs: tuple[Tensor], places: list[int] = places) -> Any:
                mask = torch.zeros(inputs[0].shape[-1], dtype=inputs[0].dtype)
                mask[places] = 1
                return (inputs[0] * mask,)

            reader.register_forward_pre_hook(hook)


def count(hf: Any) -> int:
    return sum(weight.numel() for weight in hf.parameters())


def answer(hf: Any, batch: dict[str, Tensor]) -> Tensor:
    out = hf(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return torch.cat([values.flatten() for values in out.to_tuple()])


@pytest.mark.parametrize("kind", ["question-answering", "classification"])
@pytest.mark.parametrize("family", RESIZED)
def test_the_pruned_model_is_the_masked_model(
    family: str, kind: Any, build_hf: BuildHf, make_batch: MakeBatch
) -> None:
    hf, batch = build_hf(family, kind), make_batch([9, 20], family=family)
    before = answer(hf, batch)
    heads = removable(family, HEADS)
    small = keep_units(hf, heads=heads, neurons=NEURONS)
    torch.testing.assert_close(answer(hf, batch), before, atol=0, rtol=0)
    masked(hf, heads=heads or [range(4)] * 3)
    assert (answer(hf, batch) - before).abs().max() > 1e-3
    torch.testing.assert_close(answer(small, batch), answer(hf, batch), atol=1e-10, rtol=0)
    full, cut = (LengthAdaptiveModel(model, task=TASKS[kind])(batch) for model in (hf, small))
    torch.testing.assert_close(cut, full, atol=1e-10, rtol=0)


def test_in_single_precision_they_agree_to_a_millionth(
    build_hf: BuildHf, make_batch: MakeBatch
) -> None:
    hf, batch = build_hf().float(), make_batch([9, 20])
    small = keep_units(hf, heads=HEADS, neurons=NEURONS)
    masked(hf)
    scale = answer(hf, batch).abs().max().item()
    torch.testing.assert_close(
        answer(small, batch), answer(hf, batch), atol=1e-6 * max(1.0, scale), rtol=0
    )


def test_eager_attention_runs_too(build_hf: BuildHf, make_batch: MakeBatch) -> None:
    hf, batch = build_hf(), make_batch([9, 20])
    small = keep_units(hf, heads=HEADS, neurons=NEURONS)
    expected = answer(small, batch)
    small.set_attn_implementation("eager")
    torch.testing.assert_close(answer(small, batch), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("significance", ["question", "column_sum", "span"])
def test_the_pruned_model_drops_the_tokens_that_the_masked_model_drops(
    significance: str, build_hf: BuildHf, make_batch: MakeBatch
) -> None:
    """With all heads: a removed head no longer votes, a masked one would."""
    hf, batch = build_hf(), make_batch([20, 32])
    everything = [[0, 1, 2, 3]] * 3
    small = keep_units(hf, neurons=NEURONS)
    masked(hf, heads=everything)
    one, other = (LengthAdaptiveModel(m, significance=significance) for m in (hf, small))
    torch.testing.assert_close(other(batch, LENGTHS), one(batch, LENGTHS), atol=1e-10, rtol=0)


@pytest.mark.parametrize("significance", ["question", "column_sum", "span"])
def test_layers_with_fewer_heads_drop_tokens(
    significance: str, build_hf: BuildHf, make_batch: MakeBatch
) -> None:
    small = keep_units(build_hf(), heads=HEADS)
    model = LengthAdaptiveModel(small, significance=significance)
    batch = make_batch([20, 32])
    together = model(batch, LENGTHS)
    alone = model({name: values[:1, :20] for name, values in batch.items()}, LENGTHS)
    torch.testing.assert_close(together[0, :20], alone[0], atol=1e-9, rtol=0)
    assert model.trace(batch).queries[1].shape == (2, 1, 32, 4)


@pytest.mark.parametrize("family", RESIZED)
def test_parameters_equal_the_formula(family: str, build_hf: BuildHf) -> None:
    hf, heads = build_hf(family), removable(family, HEADS)
    small = keep_units(hf, heads=heads, neurons=NEURONS)
    gone_heads, gone_neurons = (2 + 3 + 0) * bool(heads), 16 + 30 + 2
    head, neuron = 4 * (4 * 16) + 3 * 4, 2 * 16 + 1
    if family == "modernbert":  # no biases, and each neuron has a gate
        head, neuron = 4 * (4 * 16), 3 * 16
    assert count(hf) - count(small) == gone_heads * head + gone_neurons * neuron
    arch = LengthAdaptiveModel(small).arch
    assert parameters(arch) == count(small)
    assert size_bytes(arch, "fp32") == 4 * count(small)


def test_macs_are_those_that_torch_counts(build_hf: BuildHf, make_batch: MakeBatch) -> None:
    """Both differ by the elementwise products only, which pruning leaves alone."""
    hf, batch = build_hf(), make_batch([20])
    small = keep_units(hf, heads=HEADS, neurons=NEURONS)
    models = [LengthAdaptiveModel(hf), LengthAdaptiveModel(small)]
    flops = []
    for model in models:
        model.hf.set_attn_implementation("eager")  # the counter misses the fused products
        with FlopCounterMode(display=False) as counter:
            answer(model.hf, batch)
        flops.append(counter.get_total_flops() // 2)
    before, after = (macs(model.arch, (20,) * 3, 20) for model in models)
    assert flops[0] - flops[1] == before - after > 0


def test_pruning_again_counts_from_what_is_present(
    build_hf: BuildHf, make_batch: MakeBatch
) -> None:
    hf, batch = build_hf(), make_batch([9, 20])
    once = keep_units(hf, heads=[[1, 3], [0, 1, 2], [0, 1, 2, 3]])
    twice = keep_units(once, heads=[[1], [0, 2], [3]])
    direct = keep_units(hf, heads=[[3], [0, 2], [3]])
    torch.testing.assert_close(answer(twice, batch), answer(direct, batch), atol=0, rtol=0)


def test_a_factorized_model_is_pruned_too(build_hf: BuildHf, make_batch: MakeBatch) -> None:
    hf, batch = factorize(build_hf(), 1.5), make_batch([9, 20])
    small = keep_units(hf, heads=HEADS, neurons=NEURONS)
    masked(hf)
    torch.testing.assert_close(answer(small, batch), answer(hf, batch), atol=1e-10, rtol=0)
    assert parameters(LengthAdaptiveModel(small).arch) == count(small)


def test_frozen_weights_stay_frozen_and_others_train(
    build_hf: BuildHf, make_batch: MakeBatch
) -> None:
    hf = build_hf()
    block: Any = family_of(hf).block(family_of(hf).layers(hf)[0])
    block.query.weight.requires_grad_(False)
    small = keep_units(hf, heads=HEADS)
    cut: Any = family_of(small).block(family_of(small).layers(small)[0])
    answer(small, make_batch([9])).sum().backward()
    assert cut.query.weight.grad is None
    assert cut.key.weight.grad.shape == (8, 16)


def test_equal_feed_forwards_need_no_record(build_hf: BuildHf) -> None:
    small = keep_units(build_hf(), neurons=[range(8)] * 3)
    assert small.config.intermediate_size == 8
    assert not hasattr(small.config, KEY)


@pytest.mark.parametrize(
    "heads", [[[0], [0]], [[0], [], [0]], [[0], [4], [0]], [[1, 1], [0], [0]]]
)
def test_heads_that_a_layer_cannot_keep_are_refused(heads: Any, build_hf: BuildHf) -> None:
    with pytest.raises(QualaError, match="heads"):
        keep_units(build_hf(), heads=heads)


Batch = dict[str, Tensor]
STEP = 1e-5


@contextmanager
def scaled(hf: Any, layer: int, part: str, columns: slice, factor: float) -> Iterator[None]:
    """Multiply what a head or a neuron hands on by `factor`."""
    family = family_of(hf)
    reader = getattr(family.block(family.layers(hf)[layer]), part)

    def hook(_: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
        changed = inputs[0].clone()
        changed[..., columns] *= factor
        return (changed,)

    handle = reader.register_forward_pre_hook(hook)
    yield
    handle.remove()


def loss_of(hf: Any) -> Callable[[Batch], Tensor]:
    model = LengthAdaptiveModel(hf)
    return lambda batch: model(batch).square().mean()


def slope(hf: Any, batch: Batch, layer: int, part: str, columns: slice) -> float:
    """Return the derivative of the loss by the mask at 1, from both sides."""
    values = []
    for factor in (1 + STEP, 1 - STEP):
        with scaled(hf, layer, part, columns, factor), torch.no_grad():
            values.append(float(loss_of(hf)(batch)))
    return (values[0] - values[1]) / (2 * STEP)


def batches(make_batch: MakeBatch, family: str) -> list[Batch]:
    return [make_batch([9, 17], family=family, seed=seed) for seed in range(2)]


def check(hf: Any, data: list[Batch]) -> None:
    scores = taylor_importance(hf, data, loss_of(hf))
    for layer in (0, 2):
        for head in range(4):
            columns = slice(4 * head, 4 * head + 4)
            slow = sum(abs(slope(hf, one, layer, "attention_out", columns)) for one in data)
            assert float(scores.heads[layer][head]) == pytest.approx(slow, rel=1e-5, abs=1e-8)
        for neuron in (0, 13, 31):
            columns = slice(neuron, neuron + 1)
            slow = sum(abs(slope(hf, one, layer, "ffn_out", columns)) for one in data)
            assert float(scores.neurons[layer][neuron]) == pytest.approx(slow, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("family", [name for name in RESIZED if name != "modernbert"])
def test_scores_are_the_slope_of_the_loss(
    family: str, build_hf: BuildHf, make_batch: MakeBatch
) -> None:
    """transformers rotates in float32, whose steps are too coarse for a slope (ModernBERT)."""
    check(build_hf(family), batches(make_batch, family))


def test_scores_of_a_factorized_model_are_the_slope_too(
    build_hf: BuildHf, make_batch: MakeBatch
) -> None:
    check(factorize(build_hf(), 1.6), batches(make_batch, "bert"))


def test_removing_a_weak_unit_changes_the_loss_by_its_score(
    build_hf: BuildHf, make_batch: MakeBatch
) -> None:
    """The smaller the unit's share, the closer the change is to first order."""
    hf, batch = build_hf(), make_batch([9, 17])
    reader = family_of(hf).block(family_of(hf).layers(hf)[1]).ffn_out
    with torch.no_grad():
        reader.get_parameter("weight")[:, 7] *= 1e-4
    score = float(taylor_importance(hf, [batch], loss_of(hf)).neurons[1][7])
    with torch.no_grad():
        whole = float(loss_of(hf)(batch))
        with scaled(hf, 1, "ffn_out", slice(7, 8), 0.0):
            without = float(loss_of(hf)(batch))
    assert abs(whole - without) == pytest.approx(score, rel=1e-2)


def test_scoring_leaves_no_gradient(build_hf: BuildHf, make_batch: MakeBatch) -> None:
    hf = build_hf()
    taylor_importance(hf, [make_batch([9])], loss_of(hf))
    assert all(weight.grad is None for weight in hf.parameters())


def test_no_batches_are_refused(build_hf: BuildHf) -> None:
    hf = build_hf()
    with pytest.raises(QualaError, match="at least one batch"):
        taylor_importance(hf, [], loss_of(hf))


def test_scores_of_another_model_are_refused(build_hf: BuildHf) -> None:
    scores = (torch.ones(4),) * 3
    with pytest.raises(QualaError, match=r"\(4, 4\).*\(4, 32\)"):
        Importance(scores, scores).check(build_hf())


def importance(heads: int = 4, neurons: int = 32) -> Importance:
    generator = torch.Generator().manual_seed(0)
    return Importance(
        tuple(torch.rand(heads, generator=generator) for _ in range(3)),
        tuple(torch.rand(neurons, generator=generator) for _ in range(3)),
    )


@pytest.mark.parametrize("family", RESIZED)
def test_sorting_changes_no_output(family: str, build_hf: BuildHf, make_batch: MakeBatch) -> None:
    hf, batch = build_hf(family), make_batch([9, 20], family=family)
    if not removable(family, HEADS):
        with pytest.raises(QualaError, match=r"`width`\) cannot be removed: all layers"):
            sort_width(hf, importance())
        return
    rewired = sort_width(hf, importance())
    one, other = LengthAdaptiveModel(hf)(batch), LengthAdaptiveModel(rewired)(batch)
    torch.testing.assert_close(other, one, atol=1e-10, rtol=0)
    assert not hasattr(rewired.config, KEY)


def test_sorted_units_stand_in_falling_importance(build_hf: BuildHf) -> None:
    hf, scores = build_hf(), importance()
    family, rewired = family_of(hf), sort_width(hf, scores)
    for layer in range(3):
        old: Any = family.block(family.layers(hf)[layer])
        new: Any = family.block(family.layers(rewired)[layer])
        order = sorted(range(32), key=lambda i: -float(scores.neurons[layer][i]))
        assert torch.equal(new.ffn_in.weight, old.ffn_in.weight[order])
        assert torch.equal(new.ffn_out.weight, old.ffn_out.weight[:, order])
        best = int(scores.heads[layer].argmax())
        assert torch.equal(new.value.bias[:4], old.value.bias[4 * best : 4 * best + 4])


def best(scores: tuple[Tensor, ...], share: float) -> list[list[int]]:
    """Return the places of the largest scores of each layer, rising."""
    return [sorted(one.topk(round(share * len(one))).indices.tolist()) for one in scores]


def narrow(hf: PreTrainedModel, width: float) -> Layers:
    """Return the units of a width."""
    return elastic_layers(units_of(hf), [width], [1.0])[0]


@pytest.mark.parametrize("width", [0.25, 0.5, 0.75])
def test_a_sub_network_keeps_the_most_important(
    width: float, build_hf: BuildHf, make_batch: MakeBatch
) -> None:
    hf, scores, batch = build_hf(), importance(), make_batch([9, 20])
    small = extract(sort_width(hf, scores), narrow(hf, width))
    pruned = keep_units(hf, heads=best(scores.heads, width), neurons=best(scores.neurons, width))
    one, other = LengthAdaptiveModel(pruned)(batch), LengthAdaptiveModel(small)(batch)
    torch.testing.assert_close(other, one, atol=1e-10, rtol=0)
    sizes = {(layer.heads, layer.intermediate) for layer in structure_of(small).layers}
    assert sizes == {(round(4 * width), round(32 * width))}


def test_the_thinnest_sub_network_has_one_head_and_one_neuron(build_hf: BuildHf) -> None:
    hf = build_hf()
    sizes = structure_of(extract(hf, narrow(hf, 0.01))).layers
    assert {(layer.heads, layer.intermediate) for layer in sizes} == {(1, 1)}


@pytest.mark.parametrize("width", [0.0, 1.5])
def test_a_width_out_of_range_is_refused(width: float, build_hf: BuildHf) -> None:
    with pytest.raises(QualaError, match="`widths` must be above 0"):
        narrow(build_hf(), width)


def test_widths_of_scores_that_are_not_finite_are_refused(build_hf: BuildHf) -> None:
    scores = importance()
    scores.neurons[1][3] = float("nan")
    with pytest.raises(QualaError, match="must be finite"):
        sort_width(build_hf(), scores)


def test_widths_of_scores_of_another_model_are_refused(build_hf: BuildHf) -> None:
    with pytest.raises(QualaError, match="Importance is of"):
        sort_width(build_hf(), importance(heads=2))


MIXED = (Units(2, 20), None, Units(1, 32))


@pytest.mark.parametrize("family", RESIZED)
def test_views_of_prefixes_run_as_the_model_that_is_cut_out(
    family: str, build_hf: BuildHf, make_batch: MakeBatch
) -> None:
    hf, batch = build_hf(family), make_batch([9, 20], family=family)
    layers: Layers = MIXED if removable(family, HEADS) else (Units(4, 20), None, Units(4, 32))
    lengths = LengthConfig((20, 11, 5), 32).of(layers)
    model = LengthAdaptiveModel(hf)
    logits = run_layers(model, batch, layers, lengths)
    cut = LengthAdaptiveModel(extract(hf, layers))
    torch.testing.assert_close(logits, cut(batch, lengths.extracted), atol=0, rtol=0)
    logits.sum().backward()
    block = model.family.block(model.family.layers(hf)[0])
    assert block.ffn_out.weight.grad is not None
    reached = block.ffn_out.weight.grad.abs().sum(dim=0) > 0
    assert reached.nonzero().flatten().tolist() == list(range(20))


def test_a_sub_network_has_no_more_units_than_the_model(build_hf: BuildHf) -> None:
    for layers in ((Units(5, 8),) * 3, (Units(2, 33),) * 3):
        with pytest.raises(QualaError, match="at most 4x32, got"):
            extract(build_hf(), layers)
        with pytest.raises(QualaError, match="at most 4x32, got"):
            prefix_views(build_hf(), layers)
