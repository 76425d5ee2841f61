"""Taylor scores against finite differences of the loss under a mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import FAMILIES, BuildHf, MakeBatch

from quala.compress.prune.structured import Importance, keep_most_important, taylor_importance
from quala.compress.shrink import FactoriseConfig, factorise
from quala.errors import QualaError
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.families import family_of

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


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_the_slope_of_the_loss(
    family: str, build_hf: BuildHf, make_batch: MakeBatch
) -> None:
    check(build_hf(family), batches(make_batch, family))


def test_scores_of_a_factorised_model_are_the_slope_too(
    build_hf: BuildHf, make_batch: MakeBatch
) -> None:
    check(factorise(build_hf(), FactoriseConfig(linear_rank=5)), batches(make_batch, "bert"))


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


SCORES = [torch.tensor([9.0, 8.0, 7.0, 6.0]), torch.tensor([1.0, 3.0, 2.0, 0.5])]


def test_the_best_of_each_layer_stay() -> None:
    assert keep_most_important(SCORES, 0.5) == [[0, 1], [1, 2]]


def test_the_best_of_all_layers_stay_and_one_of_each() -> None:
    assert keep_most_important(SCORES, 0.5, scope="global") == [[0, 1, 2], [1]]
    assert keep_most_important(SCORES, 0.75, scope="global") == [[0, 1, 2, 3], [1, 2]]
    assert keep_most_important(SCORES, 1.0, scope="global") == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_every_layer_keeps_one(scope: Any) -> None:
    assert keep_most_important(SCORES, 0.01, scope=scope) == [[0], [1]]


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(QualaError, match="`share`"):
        keep_most_important(SCORES, share)


def test_another_scope_is_refused() -> None:
    with pytest.raises(QualaError, match="Did you mean `layer`"):
        keep_most_important(SCORES, 0.5, scope="layers")  # type: ignore[arg-type]


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(QualaError, match="finite"):
        keep_most_important([torch.tensor([1.0, torch.nan])], 0.5)


def test_scores_of_another_model_are_refused(build_hf: BuildHf) -> None:
    scores = (torch.ones(4),) * 3
    with pytest.raises(QualaError, match=r"\(4, 4\).*\(4, 32\)"):
        Importance(scores, scores).check(build_hf())
