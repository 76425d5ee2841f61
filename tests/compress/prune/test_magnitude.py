"""Masks against sorted lists of absolute values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from toys import RESIZED, BuildHf

from quala.compress.prune.magnitude import (
    apply_masks,
    fisher_scores,
    magnitude_masks,
    masks_of,
    prunable_weights,
)
from quala.compress.shrink import factorize
from quala.errors import QualaError


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    large = 3 * torch.randn(4, 5, generator=generator)
    return {"a": torch.randn(6, 3, generator=generator), "b": large}


def test_a_global_mask_hides_the_smallest_of_all() -> None:
    weights = tensors()
    masks = magnitude_masks(weights, 0.5)
    magnitudes = sorted(abs(value) for w in weights.values() for value in w.flatten().tolist())
    for name, weight in weights.items():
        assert torch.equal(masks[name], weight.abs() >= magnitudes[19])


@pytest.mark.parametrize("sparsity", [0.0, 0.13, 0.5, 0.97])
def test_exactly_the_asked_share_is_hidden_even_of_equal_weights(sparsity: float) -> None:
    masks = magnitude_masks({"a": torch.ones(10, 7), "b": torch.ones(30)}, sparsity)
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(100 * sparsity)


def test_rising_sparsity_brings_no_weight_back() -> None:
    weights = {name: nn.Parameter(weight) for name, weight in tensors().items()}
    model = nn.ParameterDict(weights)
    early = magnitude_masks(weights, 0.3)
    apply_masks(model, early)
    late = magnitude_masks(weights, 0.6)
    assert all(not (late[name] & ~early[name]).any() for name in weights)


def test_masked_weights_stay_zero_through_training() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    masks = magnitude_masks({"weight": layer.weight}, 0.5)
    apply_masks(layer, masks)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.randn(5, 6)).square().sum().backward()
        optimizer.step()
        apply_masks(layer, masks)
    assert torch.equal(layer.weight != 0, masks["weight"])


@pytest.mark.parametrize("family", RESIZED)
def test_all_matrices_of_the_encoder_and_the_words_are_prunable(
    family: str, build_hf: BuildHf
) -> None:
    hf = build_hf(family)
    weights = prunable_weights(hf)
    wide = 8 if family == "electra" else 16
    packed = family == "modernbert"  # queries, keys and values; a neuron with its gate
    neurons = (3 if packed else 2) * 512
    assert sum(w.numel() for w in weights.values()) == 3 * (4 * 256 + neurons) + 50 * wide
    assert all(hf.get_parameter(name) is weight for name, weight in weights.items())
    assert len(prunable_weights(hf, embeddings=False)) == (12 if packed else 18)


def test_factors_are_prunable(build_hf: BuildHf) -> None:
    small = factorize(build_hf(), 2.0)
    weights = prunable_weights(small)
    expected = 3 * (4 * 4 * 32 + 2 * 5 * 48) + 6 * 66
    assert sum(w.numel() for w in weights.values()) == expected
    apply_masks(small, magnitude_masks(weights, 0.25))
    assert sum(int((w == 0).sum()) for w in weights.values()) == round(expected / 4)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0])
def test_a_sparsity_out_of_range_is_refused(sparsity: float) -> None:
    with pytest.raises(QualaError, match="`sparsity`"):
        magnitude_masks(tensors(), sparsity)


def test_no_weights_are_refused() -> None:
    with pytest.raises(QualaError, match="at least one"):
        magnitude_masks({}, 0.5)


@pytest.mark.parametrize("name", ["weight", "absent"])
def test_a_mask_that_fits_nothing_is_refused(name: str) -> None:
    with pytest.raises(QualaError, match=f"`{name}`"):
        apply_masks(nn.Linear(2, 2), {name: torch.ones(3, 3, dtype=torch.bool)})


def test_a_fisher_score_is_half_the_squares_of_gradient_times_weight() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    inputs = torch.randn(3, 2, 3, dtype=torch.float64)

    def loss(batch: Tensor) -> Tensor:
        return model(batch).square().mean()

    weights = {name: weight for name, weight in model.named_parameters() if weight.dim() == 2}
    found = fisher_scores(weights, inputs, loss)
    step = 1e-6
    for name, weight in weights.items():
        slow = torch.zeros_like(weight)
        for place in range(weight.numel()):
            for batch in inputs:
                ends = []
                for sign in (1, -1):
                    with torch.no_grad():
                        weight.view(-1)[place] += sign * step
                        ends.append(float(loss(batch)))
                        weight.view(-1)[place] -= sign * step
                slope = (ends[0] - ends[1]) / (2 * step)
                slow.view(-1)[place] += slope**2 * weight.detach().view(-1)[place] ** 2 / 2
        torch.testing.assert_close(found[name], slow, rtol=1e-5, atol=1e-12)
        assert weight.grad is None


def test_a_fisher_score_of_nothing_or_of_nan_is_refused() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(QualaError, match="at least one batch"):
        fisher_scores({"a": weight}, [], lambda batch: weight.sum())
    with pytest.raises(QualaError, match="must be finite"):
        fisher_scores({"a": weight}, [1], lambda batch: (weight * float("nan")).sum())


def test_scores_rank_and_zeros_go_before_weights_that_were_never_read() -> None:
    weights = {"a": torch.tensor([[0.0, 5.0], [1.0, 2.0]])}
    scores = {"a": torch.tensor([[0.0, 0.0], [3.0, 0.5]])}
    hidden = [~magnitude_masks(weights, share, scores=scores)["a"] for share in (0.25, 0.5, 0.75)]
    assert [one.flatten().tolist() for one in hidden] == [
        [True, False, False, False], [True, True, False, False], [True, True, False, True],
    ]  # fmt: skip


@pytest.mark.parametrize("family", RESIZED)
def test_masks_are_read_off_the_zeros(family: str, build_hf: BuildHf) -> None:
    hf = factorize(build_hf(family), 2.0)
    weights = prunable_weights(hf)
    words = hf.get_input_embeddings().table
    with torch.no_grad():
        words.weight[words.padding_idx] = 0.0
        next(iter(weights.values())).fill_(9.0)
    masks = magnitude_masks(weights, 0.3)
    apply_masks(hf, masks)
    found = masks_of(hf)
    assert found.keys() == set(list(masks)[1:])
    for name, mask in found.items():
        wanted = masks[name].clone()
        if weights[name] is words.weight:
            wanted[words.padding_idx] = True
        assert torch.equal(mask, wanted), name
