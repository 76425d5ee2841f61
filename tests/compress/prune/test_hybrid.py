"""LadaBERT's combination: budget and split."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from toys import FAMILIES, BuildHf
from transformers import BertConfig, BertForQuestionAnswering

from quala.compress.depth import keep_layers
from quala.compress.prune.config import HybridConfig, ratio_steps
from quala.compress.prune.magnitude import magnitude_masks, prunable_weights
from quala.compress.shrink import FactoriseConfig, factorise, hybrid_compress, weight_budget
from quala.compress.structure import FactorisedLinear, linear_names
from quala.errors import QualaError


def count(hf: Any) -> int:
    return sum(weight.numel() for weight in hf.parameters())


def kept(small: Any, masks: dict[str, torch.Tensor]) -> int:
    """Count the parameters outside the masks, and the ones that the masks leave."""
    hidden = sum(int((~mask).sum()) for mask in masks.values())
    return count(small) - hidden


@pytest.mark.parametrize("embeddings", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("family", FAMILIES)
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
    slow = factorise(hf, FactoriseConfig(linear_ratio=svd, embedding_ratio=svd))
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
    assert not isinstance(small.get_submodule(name), FactorisedLinear)
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
    slow = factorise(student, FactoriseConfig(linear_ratio=ratio, embedding_ratio=ratio))
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
