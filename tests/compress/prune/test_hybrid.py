"""LadaBERT's combination: budget and split."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from toys import FAMILIES, BuildHf

from quala.compress.factorise.layers import FactorisedLinear
from quala.compress.factorise.model import FactoriseConfig, factorise
from quala.compress.prune.hybrid import (
    HybridConfig,
    hybrid_compress,
    ratio_steps,
    split_ratio,
)
from quala.compress.prune.magnitude import magnitude_masks, prunable_weights
from quala.compress.structure import linear_names
from quala.errors import QualaError


def count(hf: Any) -> int:
    return sum(weight.numel() for weight in hf.parameters())


def kept(small: Any, masks: dict[str, torch.Tensor]) -> int:
    """Count the parameters outside the masks, and the ones that the masks leave."""
    hidden = sum(int((~mask).sum()) for mask in masks.values())
    return count(small) - hidden


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_parts_multiply_to_the_ratio(share: float) -> None:
    svd, pruning = split_ratio(10.0, share)
    assert svd * pruning == pytest.approx(10.0)
    assert math.log(svd) == pytest.approx(share * math.log(10.0), abs=1e-12)


def test_the_steps_multiply_to_the_ratio_by_one_factor() -> None:
    steps = ratio_steps(8.0, 3)
    assert steps == pytest.approx([2.0, 4.0, 8.0])
    assert ratio_steps(5.0, 1) == [5.0]


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


def test_a_ratio_beyond_the_untouched_parameters_is_refused(build_hf: BuildHf) -> None:
    hf = build_hf()
    with pytest.raises(QualaError, match="not compressed"):
        hybrid_compress(hf, HybridConfig(1000.0), original_parameters=count(hf))


@pytest.mark.parametrize("values", [{"ratio": 1.0}, {"ratio": 2.0, "svd_share": 1.1}])
def test_senseless_configs_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(QualaError, match="allowed is"):
        HybridConfig(**values)


def test_steps_of_nothing_are_refused() -> None:
    with pytest.raises(QualaError, match="a step"):
        ratio_steps(2.0, 0)
