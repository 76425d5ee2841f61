"""Bits of weights: the table against separate models, and the knapsack against brute force."""

from __future__ import annotations

import copy
import itertools
import json
import random
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from toys import Build, MakeBatch

from quala.compress.quantize.config import QuantizeConfig
from quala.errors import QualaError
from quala.search.bits import RESULT, Sensitivity, allocate, read_bits


@pytest.mark.parametrize("seed", range(12))
def test_the_choice_is_the_best_of_all(seed: int) -> None:
    draw = random.Random(seed)
    choices = [draw.choice([(2, 3, 4, 8), (0, 2, 4), (4,)]) for _ in range(5)]
    sizes = [draw.choice([24, 48, 100]) for _ in choices]
    costs = [[size * bits for bits in own] for size, own in zip(sizes, choices, strict=True)]
    losses = [[draw.random() ** 3 for _ in own] for own in choices]  # not even falling with bits
    budget = draw.randint(sum(map(min, costs)), sum(map(max, costs)))

    def summed(rows: list[list[float]], picks: tuple[int, ...]) -> float:
        return sum(row[pick] for row, pick in zip(rows, picks, strict=True))

    every = itertools.product(*(range(len(own)) for own in choices))
    fitting = [picks for picks in every if summed(costs, picks) <= budget]  # type: ignore[arg-type]
    found = tuple(allocate(losses, costs, budget))
    assert found in fitting
    assert summed(losses, found) == pytest.approx(min(summed(losses, one) for one in fitting))


def test_costs_without_a_common_divisor_never_pass_the_budget() -> None:
    draw = random.Random(0)
    costs = [[draw.randint(10**6, 10**7) for _ in range(3)] for _ in range(8)]
    losses = [[1 / cost for cost in row] for row in costs]
    budget = sum(map(min, costs)) + 10**7
    picks = allocate(losses, costs, budget)
    assert sum(row[pick] for row, pick in zip(costs, picks, strict=True)) <= budget


def test_a_budget_below_the_smallest_sum_is_refused() -> None:
    assert allocate([[1.0, 0.0]], [[16, 32]], 16) == [0]
    with pytest.raises(QualaError, match="15; allowed is at least 16"):
        allocate([[1.0, 0.0]], [[16, 32]], 15)


def step_of(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Return a weight rounded per row, its largest value at the end of the grid."""
    if not bits:
        return torch.zeros_like(weight)
    top = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(dim=1, keepdim=True) / top
    return (weight / scale).round().clamp(-top, top) * scale


@pytest.mark.parametrize("family", ["bert", "modernbert", "albert", "deberta-v2"])
def test_the_table_is_that_of_separate_models(
    build: Build, make_batch: MakeBatch, family: str
) -> None:
    model = build(family, "classification")
    batches = [make_batch(tokens, family=family) for tokens in ([9, 5, 7], [6])]
    sensitivity = Sensitivity(model, batches, QuantizeConfig())  # type: ignore[arg-type]
    before = copy.deepcopy(model.hf.state_dict())
    layers = model.family.layers(model.hf)
    names = {module: name for name, module in model.hf.named_modules()}
    cases = [
        (names[getattr(model.family.block(layers[layer]), part)], layer)
        for layer, part in (
            (0, "query"),
            (0, "ffn_out"),
            (2, "ffn_in"),
            (2, "value"),
            (1, "query"),
        )
    ]  # the last comes after a higher layer
    if family == "albert":
        cases = [(name, 0) for name, _ in cases]
    for (name, layer), bits in itertools.product(cases, (0, 2, 4)):
        other = copy.deepcopy(model)
        module = other.hf.get_submodule(name)
        with torch.no_grad():
            module.weight.copy_(step_of(module.weight, bits))  # type: ignore[operator, arg-type]
            total = 0.0
            for batch in batches:
                own, theirs = (
                    functional.log_softmax(one(batch), dim=-1)  # type: ignore[arg-type]
                    for one in (model, other)
                )
                total += float((own.exp() * (own - theirs)).sum())
        assert sensitivity.divergence({name: bits}, layer) == pytest.approx(
            total / 4, rel=1e-4, abs=1e-6
        )
        assert total > 0
    after = model.hf.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_several_weights_are_rounded_together(build: Build, make_batch: MakeBatch) -> None:
    model = build("bert")
    names = [f"bert.encoder.layer.{layer}.output.dense" for layer in range(3)]
    batches = [make_batch([9, 5])]
    sensitivity = Sensitivity(model, batches, QuantizeConfig())  # type: ignore[arg-type]
    single = [sensitivity.divergence({name: 2}, layer) for layer, name in enumerate(names)]
    both = sensitivity.divergence(dict.fromkeys(names, 2))
    assert both > max(single)
    assert both != pytest.approx(sum(single), rel=1e-3)
    assert sensitivity.divergence({names[0]: 2}) == pytest.approx(single[0])


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    facts = {
        "bits": {"a": 2},
        "mean_bits": 2.0,
        "origin": "searched",
        "divergence": {},
        "table": {},
    }
    (tmp_path / RESULT).write_text(json.dumps(facts))
    assert read_bits(tmp_path).bits == {"a": 2}
    (tmp_path / RESULT).write_text(json.dumps(facts | {"bits": {"a": "two"}}))
    with pytest.raises(QualaError, match="damaged"):
        read_bits(tmp_path)
