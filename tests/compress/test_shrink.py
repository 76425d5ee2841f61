"""Factorized encoders: formula, function, iteration."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from toys import RESIZED, Build, BuildHf, MakeBatch
from transformers import BertConfig, BertForQuestionAnswering

from quala.architecture import KEY
from quala.compress.low_rank import FactorizedEmbedding, FactorizedLinear
from quala.compress.prune.config import HybridConfig, ratio_steps
from quala.compress.prune.magnitude import magnitude_masks, prunable_weights
from quala.compress.prune.structured import Importance, extract, sort_width, units_of
from quala.compress.shrink import (
    factorize,
    factorize_words,
    hybrid_compress,
    keep_prefix,
    rank_for_ratio,
    weight_budget,
    with_zeros,
)
from quala.compress.structure import embedding_name, keep_layers, linear_names, structure_of
from quala.cost import macs, parameters
from quala.errors import QualaError
from quala.lengths import elastic_layers
from quala.models.adaptive import LengthAdaptiveModel


def wrap(hf: Any) -> LengthAdaptiveModel:
    return LengthAdaptiveModel(hf)


def count(hf: Any) -> int:
    return sum(weight.numel() for weight in hf.parameters())


@pytest.mark.parametrize("family", RESIZED)
def test_the_factors_compute_what_their_products_do(
    family: str, build_hf: BuildHf, make_batch: MakeBatch
) -> None:
    hf, batch = build_hf(family), make_batch([9, 20], family=family)
    small = factorize(hf, 2.0)
    for name in [embedding_name(hf), *(n for layer in linear_names(hf) for n in layer.values())]:
        module = small.get_submodule(name)
        assert isinstance(module, FactorizedEmbedding | FactorizedLinear)
        hf.get_parameter(f"{name}.weight").data.copy_(module.dense_weight())
    torch.testing.assert_close(wrap(small)(batch), wrap(hf)(batch), atol=1e-9, rtol=0)


@pytest.mark.parametrize("family", RESIZED)
def test_parameters_equal_the_formula(family: str, build_hf: BuildHf) -> None:
    hf = build_hf(family)
    small = factorize(hf, 2.0)
    wide, rank = (8, 3) if family == "electra" else (16, 6)
    square, tall = 4 * (16 + 16) - 16 * 16, 5 * (16 + 32) - 16 * 32
    table = rank * (50 + wide) - 50 * wide
    change = 4 * square + 2 * tall
    if family == "modernbert":  # 48 x 16 and 64 x 16 matrices beside a square and a tall one
        change = square + tall + 6 * (16 + 48) - 16 * 48 + 6 * (16 + 64) - 16 * 64
    assert count(small) == count(hf) + 3 * change + table
    assert parameters(wrap(small).arch) == count(small)


def test_macs_are_those_that_torch_counts(build_hf: BuildHf, make_batch: MakeBatch) -> None:
    """Both differ by the elementwise products only, which the factors do not change."""
    hf, batch = build_hf(), make_batch([20])
    small = factorize(hf, 2.0)
    counted = []
    for model in (wrap(hf), wrap(small)):
        with FlopCounterMode(display=False) as counter:
            model(batch)
        counted.append(counter.get_total_flops() // 2)
    full = (20,) * 3
    difference = macs(wrap(hf).arch, full, 20) - macs(wrap(small).arch, full, 20)
    assert counted[0] - counted[1] == difference


def test_ranks_follow_the_ratio(build_hf: BuildHf) -> None:
    small = factorize(build_hf(), 2.0)
    ranks = [small.get_submodule(name).rank for name in linear_names(small)[0].values()]
    assert ranks == [4, 4, 4, 4, 5, 5]


@pytest.mark.parametrize("shape", [(384, 384), (384, 1536), (768, 30522), (5, 3)])
@pytest.mark.parametrize("ratio", [1.5, 2.0, 7.5])
def test_the_rank_is_the_largest_that_meets_the_ratio(
    shape: tuple[int, int], ratio: float
) -> None:
    rank, dense = rank_for_ratio(*shape, ratio), shape[0] * shape[1]
    assert rank == 1 or rank * sum(shape) <= dense / ratio
    assert (rank + 1) * sum(shape) > dense / ratio


def test_factorizing_in_steps_lowers_ranks_only(build_hf: BuildHf) -> None:
    hf = build_hf()
    half = factorize(hf, 2.0, embeddings=False)
    third = factorize(half, 3.0, embeddings=False)
    direct = factorize(hf, 3.0, embeddings=False)
    assert count(third) == count(direct) < count(half)
    name = linear_names(hf)[0]["ffn_in"]
    one, other = third.get_submodule(name), direct.get_submodule(name)
    assert isinstance(one, FactorizedLinear)
    assert isinstance(other, FactorizedLinear)
    torch.testing.assert_close(one.dense_weight(), other.dense_weight(), atol=1e-10, rtol=0)
    again = factorize(third, 2.0, embeddings=False)
    assert count(again) == count(third)


def test_the_original_is_untouched(build_hf: BuildHf) -> None:
    hf = build_hf()
    before = {name: value.clone() for name, value in hf.state_dict().items()}
    factorize(hf, 2.0)
    assert all(torch.equal(value, before[name]) for name, value in hf.state_dict().items())
    assert not hasattr(hf.config, KEY)


def test_a_factorized_model_drops_tokens(build: Build, make_batch: MakeBatch) -> None:
    from quala.lengths import LengthConfig

    model = build()
    small = wrap(factorize(model.hf, 2.0))
    assert small(make_batch([20, 9]), LengthConfig((16, 8, 4), 32)).shape == (2, 20, 2)


@pytest.mark.parametrize("ratio", [1.0, 0.0, -2.0])
def test_a_ratio_that_shrinks_nothing_is_refused(ratio: float, build_hf: BuildHf) -> None:
    with pytest.raises(QualaError, match="above 1"):
        factorize(build_hf(), ratio)


def test_both_factors_are_quantized(build_hf: BuildHf, make_batch: MakeBatch) -> None:
    from quala.compress.quantize.config import QuantizeConfig
    from quala.compress.quantize.transform import calibrate, quantize

    small = factorize(build_hf().float(), 1.5)
    model, batch = wrap(small), make_batch([20])
    before = model(batch).detach()
    names = quantize(small, QuantizeConfig())
    assert len([name for name in names if name.endswith((".down", ".up", ".table"))]) == 38
    calibrate(small, lambda: model(batch))
    difference = (model(batch) - before).abs().mean()
    assert 0 < difference < 0.2 * before.abs().mean()


def test_a_quantized_model_is_refused(build_hf: BuildHf) -> None:
    from quala.compress.quantize.config import QuantizeConfig
    from quala.compress.quantize.transform import quantize

    hf = build_hf()
    quantize(hf, QuantizeConfig())
    with pytest.raises(QualaError, match="before quantizing"):
        factorize(hf, 2.0)


def kept(small: Any, masks: dict[str, torch.Tensor]) -> int:
    """Count the parameters outside the masks, and the ones that the masks leave."""
    hidden = sum(int((~mask).sum()) for mask in masks.values())
    return count(small) - hidden


@pytest.mark.parametrize("embeddings", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("family", RESIZED)
def test_the_budget_is_met_to_the_weight(
    family: str, share: float, embeddings: bool, build_hf: BuildHf
) -> None:
    hf = build_hf(family)
    config = HybridConfig(ratio=2.0, svd_share=share, embeddings=embeddings)
    small, masks = hybrid_compress(hf, config, original_parameters=count(hf))
    assert kept(small, masks) == min(round(count(hf) / 2.0), count(small))
    assert share > 0.5 or count(small) > round(count(hf) / 2.0)
    for name, weight in prunable_weights(small, embeddings=embeddings).items():
        assert not weight[~masks[name]].any()


def test_the_combination_is_svd_then_pruning(build_hf: BuildHf) -> None:
    hf = build_hf()
    small, masks = hybrid_compress(hf, HybridConfig(2.5), original_parameters=count(hf))
    matrices = sum(w.numel() for w in prunable_weights(hf).values())
    budget = round(count(hf) / 2.5) - (count(hf) - matrices)
    svd = math.sqrt(matrices / budget)
    slow = factorize(hf, svd)
    weights = prunable_weights(slow)
    total = sum(w.numel() for w in weights.values())
    for name, mask in magnitude_masks(weights, (total - budget) / total).items():
        assert torch.equal(small.get_parameter(name), weights[name] * mask)
        assert torch.equal(masks[name], mask)


def test_without_svd_the_matrices_stay_dense_and_the_original_untouched(
    build_hf: BuildHf,
) -> None:
    hf = build_hf()
    config = HybridConfig(2.0, svd_share=0.0)
    small, _ = hybrid_compress(hf, config, original_parameters=count(hf))
    name = linear_names(small)[0]["query"]
    assert not isinstance(small.get_submodule(name), FactorizedLinear)
    assert bool(hf.get_parameter(f"{name}.weight").all())


def test_steps_reach_the_budget_of_the_last(build_hf: BuildHf) -> None:
    hf = build_hf()
    small, sizes = hf, []
    for ratio in ratio_steps(3.0, 3):
        config = HybridConfig(ratio)
        small, masks = hybrid_compress(small, config, original_parameters=count(hf))
        sizes.append(kept(small, masks))
    assert sizes == [round(count(hf) / 3 ** (k / 3)) for k in (1, 2, 3)]


def test_the_four_sizes_of_the_paper_are_reached_to_the_weight() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=900, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=192, max_position_embeddings=16,
    )  # fmt: skip
    hf = BertForQuestionAnswering(config)
    for ratio in (2.5, 5.0, 7.5, 10.0):
        small = hf
        for step in ratio_steps(ratio, 3):
            small, masks = hybrid_compress(
                small, HybridConfig(step), original_parameters=count(hf)
            )
        assert kept(small, masks) == round(count(hf) / ratio)
        assert count(small) < count(hf) / ratio**0.4  # SVD had its part


@pytest.mark.parametrize("ratio", [2.5, 5.0, 7.5, 10.0])
def test_ten_times_leave_minilm_most_of_its_weights_to_the_matrices(ratio: float) -> None:
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    with torch.device("meta"):
        hf = BertForQuestionAnswering(config)
    assert count(hf) == 22_566_146
    left = weight_budget(hf, HybridConfig(ratio), original_parameters=count(hf))
    others = 514 * 384 + 770 + 6 * (9 * 384 + 1536) + 2 * 384
    assert left == round(22_566_146 / ratio) - others
    assert left > 2_000_000


def test_a_student_of_fewer_layers_is_compressed_from_its_own_size(build_hf: BuildHf) -> None:
    hf = build_hf()
    config = HybridConfig(3.0, svd_share=1.0)
    student = keep_layers(hf, [0, 2])
    small, masks = hybrid_compress(student, config, original_parameters=count(hf))
    budget = weight_budget(student, config, original_parameters=count(hf))
    matrices = sum(w.numel() for w in prunable_weights(student).values())
    ratio = matrices / budget
    slow = factorize(student, ratio)
    assert count(small) == count(slow) <= round(count(hf) / 3.0)
    assert kept(small, masks) == count(small)


def test_a_student_below_the_ratio_stays_as_it_is(build_hf: BuildHf) -> None:
    hf = build_hf()
    student = keep_layers(hf, [1])
    small, masks = hybrid_compress(student, HybridConfig(1.01), original_parameters=count(hf))
    assert all(bool(mask.all()) for mask in masks.values())
    state = small.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in student.state_dict().items())


@pytest.mark.parametrize("embeddings", [True, False])
def test_a_ratio_beyond_the_untouched_parameters_is_refused(
    embeddings: bool, build_hf: BuildHf
) -> None:
    hf = build_hf()
    compressed = sum(w.numel() for w in prunable_weights(hf, embeddings=embeddings).values())
    most = count(hf) / (count(hf) - compressed)
    config = HybridConfig(1.001 * most, embeddings=embeddings)
    sentence = f"not compressed; allowed is below {most:.4g}" + ("." if embeddings else ", and")
    with pytest.raises(QualaError, match=sentence):
        hybrid_compress(hf, config, original_parameters=count(hf))


def scores_of(hf: Any) -> Importance:
    generator = torch.Generator().manual_seed(0)
    sizes = structure_of(hf).layers
    return Importance(
        tuple(torch.rand(one.heads, generator=generator) for one in sizes),
        tuple(torch.rand(one.intermediate, generator=generator) for one in sizes),
    )


def test_a_prefix_is_that_of_the_sorted_model(build_hf: BuildHf) -> None:
    hf = build_hf("bert")
    scores = scores_of(hf)
    small, heads = keep_prefix(hf, scores, layers=[0, 2], heads=2, neurons=16)
    half = elastic_layers(units_of(hf), [0.5], [1.0])[0]
    slow = keep_layers(extract(sort_width(hf, scores), half), [0, 2])
    for name, weight in slow.named_parameters():
        assert torch.equal(weight, small.get_parameter(name)), name
    assert heads == [scores.heads[n].argsort(descending=True)[:2].tolist() for n in (0, 2)]


def test_a_prefix_leaves_what_is_small_enough_in_order(build_hf: BuildHf) -> None:
    hf = build_hf("bert")
    small, heads = keep_prefix(hf, scores_of(hf), layers=[0, 1, 2], heads=4, neurons=32)
    assert all(torch.equal(small.get_parameter(n), w) for n, w in hf.named_parameters())
    assert heads == [[0, 1, 2, 3]] * 3


def test_word_embeddings_get_a_rank_only_where_that_is_smaller(build_hf: BuildHf) -> None:
    hf = build_hf("bert")  # 50 x 16: two factors are as large at rank 12.1
    assert structure_of(factorize_words(hf, 13)).embedding_rank == 0
    small = factorize_words(hf, 12)
    assert structure_of(small).embedding_rank == 12
    assert count(small) == count(hf) - 50 * 16 + 12 * (50 + 16)
    again = factorize_words(small, 5)
    table, wide = again.get_submodule(embedding_name(again)), hf.get_input_embeddings().weight
    values = torch.linalg.svdvals(wide.detach())
    error = torch.linalg.matrix_norm(table.dense_weight() - wide).detach()
    assert float(error) == pytest.approx(float(values[5:].square().sum().sqrt()), rel=1e-5)
    assert structure_of(factorize_words(again, 9)).embedding_rank == 5


def test_zeros_are_a_share_of_the_matrices_that_were_chosen(build_hf: BuildHf) -> None:
    hf = build_hf("bert")
    small, masks = with_zeros(hf, 0.6, embeddings=False)
    weights = prunable_weights(small, embeddings=False)
    total = sum(weight.numel() for weight in weights.values())
    assert sum(int((weight == 0).sum()) for weight in weights.values()) == round(0.6 * total)
    assert embedding_name(hf) + ".weight" not in masks
    less, _ = with_zeros(small, 0.2, embeddings=False)  # those that are there stay
    assert all(torch.equal(less.get_parameter(name) != 0, mask) for name, mask in masks.items())
