"""Low-rank layers against numpy's SVD."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quala.compress.low_rank import FactorizedEmbedding, FactorizedLinear, truncated_svd
from quala.errors import QualaError


def matrix(rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def truncated(weight: Tensor, rank: int) -> Tensor:
    """Add up the first `rank` singular triples, one by one."""
    left, values, right = np.linalg.svd(weight.numpy())
    total = np.zeros(weight.shape)
    for i in range(rank):
        total += values[i] * np.outer(left[:, i], right[i])
    return torch.from_numpy(total)


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias).double()
    with torch.no_grad():
        layer.weight.copy_(matrix(outputs, inputs))
    return layer


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6)])
@pytest.mark.parametrize("rank", [1, 3])
def test_the_factors_are_the_truncated_svd(shape: tuple[int, int], rank: int) -> None:
    weight = matrix(*shape)
    first, second = truncated_svd(weight, rank)
    assert first.shape == (shape[0], rank)
    torch.testing.assert_close(first @ second, truncated(weight, rank), atol=1e-12, rtol=0)


def test_the_error_is_the_root_of_the_squared_singular_values_left_out() -> None:
    weight = matrix(8, 6)
    first, second = truncated_svd(weight, 4)
    left_out = np.linalg.svd(weight.numpy(), compute_uv=False)[4:]
    error = torch.linalg.norm(weight - first @ second).item()
    assert error == pytest.approx(float(np.sqrt((left_out**2).sum())), rel=1e-12)


def test_both_factors_have_the_singular_values() -> None:
    first, second = truncated_svd(matrix(8, 6), 3)
    torch.testing.assert_close(first.T @ first, second @ second.T, atol=1e-12, rtol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_full_rank_is_exact(bias: bool) -> None:
    dense, x = linear(5, 7, bias=bias), matrix(4, 5, seed=1)
    layer = FactorizedLinear.from_linear(dense, 5)
    torch.testing.assert_close(layer(x), dense(x), atol=1e-12, rtol=0)


def test_a_factorized_layer_has_r_times_m_plus_n_weights_and_its_bias() -> None:
    layer = FactorizedLinear.from_linear(linear(5, 7), 2)
    assert sum(weight.numel() for weight in layer.parameters()) == 2 * (5 + 7) + 7
    assert (layer.in_features, layer.out_features, layer.rank) == (5, 7, 2)


def test_factorizing_again_truncates_further() -> None:
    dense = linear(6, 9)
    twice = FactorizedLinear.from_linear(FactorizedLinear.from_linear(dense, 4), 2)
    expected = truncated(dense.weight.detach(), 2)
    torch.testing.assert_close(twice.dense_weight().detach(), expected, atol=1e-12, rtol=0)
    assert torch.equal(twice.up.bias, dense.bias)


def test_the_factors_share_no_storage_with_the_dense_layer() -> None:
    dense = linear(5, 7)
    layer, before = FactorizedLinear.from_linear(dense, 5), dense.bias.detach().clone()
    with torch.no_grad():
        layer.up.bias.add_(1)
    assert torch.equal(dense.bias, before)


def test_an_embedding_is_the_truncated_svd_of_its_table() -> None:
    dense = nn.Embedding.from_pretrained(matrix(11, 6), padding_idx=0)
    layer, ids = FactorizedEmbedding.from_embedding(dense, 3), torch.tensor([[0, 4], [10, 4]])
    torch.testing.assert_close(layer(ids), truncated(matrix(11, 6), 3)[ids], atol=1e-12, rtol=0)
    assert sum(weight.numel() for weight in layer.parameters()) == 3 * (11 + 6)
    assert layer.table.padding_idx == 0


def test_an_embedding_factorized_again_truncates_further() -> None:
    dense = nn.Embedding.from_pretrained(matrix(11, 6))
    layer = FactorizedEmbedding.from_embedding(dense, 5)
    twice = FactorizedEmbedding.from_embedding(layer, 2).dense_weight().detach()
    torch.testing.assert_close(twice, truncated(matrix(11, 6), 2), atol=1e-12, rtol=0)


def test_frozen_layers_stay_frozen() -> None:
    dense = linear(5, 7)
    dense.weight.requires_grad_(False)
    layer = FactorizedLinear.from_linear(dense, 2)
    assert not layer.up.weight.requires_grad
    assert layer.up.bias.requires_grad
    table = nn.Embedding.from_pretrained(matrix(11, 6))
    assert not FactorizedEmbedding.from_embedding(table, 3).table.weight.requires_grad


def test_factorizing_draws_no_random_number() -> None:
    dense, before = linear(5, 7), torch.get_rng_state()
    FactorizedLinear.from_linear(dense, 2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("rank", [0, 6])
def test_a_rank_beyond_the_smaller_side_is_refused(rank: int) -> None:
    with pytest.raises(QualaError, match="1 to 5"):
        truncated_svd(matrix(5, 7), rank)


def test_a_layer_of_no_rank_is_refused() -> None:
    with pytest.raises(QualaError, match="1 or more"):
        FactorizedLinear(4, 4, 0)
