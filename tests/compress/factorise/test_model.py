"""Factorised encoders: formula, function, iteration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from toys import FAMILIES, Build, BuildHf, MakeBatch

from quala.architecture import KEY
from quala.compress.shrink import FactoriseConfig, factorise, rank_for_ratio
from quala.compress.structure import (
    FactorisedEmbedding,
    FactorisedLinear,
    embedding_name,
    linear_names,
)
from quala.cost import macs, parameters
from quala.errors import QualaError
from quala.models.adaptive import LengthAdaptiveModel


def wrap(hf: Any) -> LengthAdaptiveModel:
    return LengthAdaptiveModel(hf)


def count(hf: Any) -> int:
    return sum(weight.numel() for weight in hf.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_full_rank_computes_the_same(
    family: str, build_hf: BuildHf, make_batch: MakeBatch
) -> None:
    hf, batch = build_hf(family), make_batch([9, 20], family=family)
    width = 8 if family == "electra" else 16
    full = factorise(hf, FactoriseConfig(linear_rank=16, embedding_rank=width))
    assert isinstance(full.get_submodule(embedding_name(full)), FactorisedEmbedding)
    torch.testing.assert_close(wrap(full)(batch), wrap(hf)(batch), atol=1e-9, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_equal_the_formula(family: str, build_hf: BuildHf) -> None:
    hf = build_hf(family)
    small = factorise(hf, FactoriseConfig(linear_rank=3, embedding_rank=2))
    wide = 8 if family == "electra" else 16
    square, tall = 3 * (16 + 16) - 16 * 16, 3 * (16 + 32) - 16 * 32
    table = 2 * (50 + wide) - 50 * wide
    assert count(small) == count(hf) + 3 * (4 * square + 2 * tall) + table
    assert parameters(wrap(small).arch) == count(small)


def test_macs_are_those_that_torch_counts(build_hf: BuildHf, make_batch: MakeBatch) -> None:
    """Both differ by the elementwise products only, which the factors do not change."""
    hf, batch = build_hf(), make_batch([20])
    small = factorise(hf, FactoriseConfig(linear_ratio=2.0, embedding_rank=2))
    counted = []
    for model in (wrap(hf), wrap(small)):
        with FlopCounterMode(display=False) as counter:
            model(batch)
        counted.append(counter.get_total_flops() // 2)
    full = (20,) * 3
    difference = macs(wrap(hf).arch, full, 20) - macs(wrap(small).arch, full, 20)
    assert counted[0] - counted[1] == difference


def test_ranks_follow_the_ratio(build_hf: BuildHf) -> None:
    small = factorise(build_hf(), FactoriseConfig(linear_ratio=2.0))
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


def test_factorising_in_steps_lowers_ranks_only(build_hf: BuildHf) -> None:
    hf = build_hf()
    half = factorise(hf, FactoriseConfig(linear_ratio=2.0))
    third = factorise(half, FactoriseConfig(linear_ratio=3.0))
    direct = factorise(hf, FactoriseConfig(linear_ratio=3.0))
    assert count(third) == count(direct) < count(half)
    name = linear_names(hf)[0]["ffn_in"]
    one, other = third.get_submodule(name), direct.get_submodule(name)
    assert isinstance(one, FactorisedLinear)
    assert isinstance(other, FactorisedLinear)
    torch.testing.assert_close(one.dense_weight(), other.dense_weight(), atol=1e-10, rtol=0)
    again = factorise(third, FactoriseConfig(linear_ratio=2.0))
    assert count(again) == count(third)


def test_the_original_is_untouched(build_hf: BuildHf) -> None:
    hf = build_hf()
    before = {name: value.clone() for name, value in hf.state_dict().items()}
    factorise(hf, FactoriseConfig(linear_rank=2, embedding_rank=2))
    assert all(torch.equal(value, before[name]) for name, value in hf.state_dict().items())
    assert not hasattr(hf.config, KEY)


def test_a_factorised_model_drops_tokens(build: Build, make_batch: MakeBatch) -> None:
    from quala.lengths import LengthConfig

    model = build()
    small = wrap(factorise(model.hf, FactoriseConfig(linear_rank=3)))
    assert small(make_batch([20, 9]), LengthConfig((16, 8, 4), 32)).shape == (2, 20, 2)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"linear_ratio": 1.0},
        {"linear_ratio": -2.0},
        {"embedding_rank": -1},
        {"linear_ratio": 2.0, "linear_rank": 4},
    ],
)
def test_senseless_configs_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(QualaError):
        FactoriseConfig(**values)


def test_both_factors_are_quantized(build_hf: BuildHf, make_batch: MakeBatch) -> None:
    from quala.compress.quantize.config import QuantizeConfig
    from quala.compress.quantize.transform import calibrate, quantize

    small = factorise(build_hf().float(), FactoriseConfig(linear_rank=6, embedding_rank=6))
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
        factorise(hf, FactoriseConfig(linear_rank=2))
