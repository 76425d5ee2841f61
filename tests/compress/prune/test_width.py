from __future__ import annotations

from typing import Any

import pytest
import torch
from toys import FAMILIES, BuildHf, MakeBatch

from quala.architecture import KEY
from quala.compress.prune.structured import Importance, PruneConfig, prune, sort_width, subnetwork
from quala.compress.structure import structure_of
from quala.errors import QualaError
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.families import family_of


def importance(heads: int = 4, neurons: int = 32) -> Importance:
    generator = torch.Generator().manual_seed(0)
    return Importance(
        tuple(torch.rand(heads, generator=generator) for _ in range(3)),
        tuple(torch.rand(neurons, generator=generator) for _ in range(3)),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_sorting_changes_no_output(family: str, build_hf: BuildHf, make_batch: MakeBatch) -> None:
    hf, batch = build_hf(family), make_batch([9, 20], family=family)
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


@pytest.mark.parametrize("width", [0.25, 0.5, 0.75])
def test_a_sub_network_keeps_the_most_important(
    width: float, build_hf: BuildHf, make_batch: MakeBatch
) -> None:
    hf, scores, batch = build_hf(), importance(), make_batch([9, 20])
    small = subnetwork(sort_width(hf, scores), width)
    pruned = prune(hf, scores, PruneConfig(heads=width, neurons=width))
    one, other = LengthAdaptiveModel(pruned)(batch), LengthAdaptiveModel(small)(batch)
    torch.testing.assert_close(other, one, atol=1e-10, rtol=0)
    sizes = {(layer.heads, layer.intermediate) for layer in structure_of(small).layers}
    assert sizes == {(round(4 * width), round(32 * width))}


def test_the_thinnest_sub_network_has_one_head_and_one_neuron(build_hf: BuildHf) -> None:
    sizes = structure_of(subnetwork(build_hf(), 0.01)).layers
    assert {(layer.heads, layer.intermediate) for layer in sizes} == {(1, 1)}


@pytest.mark.parametrize("width", [0.0, 1.5])
def test_a_width_out_of_range_is_refused(width: float, build_hf: BuildHf) -> None:
    with pytest.raises(QualaError, match="`width`"):
        subnetwork(build_hf(), width)


def test_scores_that_are_not_finite_are_refused(build_hf: BuildHf) -> None:
    scores = importance()
    scores.neurons[1][3] = float("nan")
    with pytest.raises(QualaError, match="must be finite"):
        sort_width(build_hf(), scores)


def test_scores_of_another_model_are_refused(build_hf: BuildHf) -> None:
    with pytest.raises(QualaError, match="Importance is of"):
        sort_width(build_hf(), importance(heads=2))
