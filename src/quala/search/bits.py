"""Bits for each linear weight: what its rounding costs, and the best choice within a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd, inf
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from quala.compress.losses import soft_loss
from quala.compress.quantize.modules import WeightQuantizer
from quala.errors import QualaError
from quala.stored import read_stored

if TYPE_CHECKING:
    from torch import Tensor, nn

    from quala.compress.quantize.config import QuantizeConfig
    from quala.data.features import Batch
    from quala.models.adaptive import LengthAdaptiveModel
    from quala.models.selection import State

RESULT = "bits.json"
UNITS = 20_000
"""Steps in which a budget is shared out, where the costs have no larger divisor."""


@dataclass(frozen=True)
class BitsResult:
    """The bits found for each site, and what they were found by."""

    bits: Mapping[str, int]
    """By the site's name."""
    mean_bits: float
    """Of the weights of all sites, without scales."""
    origin: str
    """`searched`, or `uniform N` where that diverges less, whatever the table says."""
    divergence: Mapping[str, float]
    """Of the model with all sites rounded, by origin; `table` is the searched bits' sum there."""
    table: Mapping[str, Mapping[str, float]]
    """The divergence of the model with one site rounded, by its name and bits."""


def read_bits(folder: Path, data: object = None) -> BitsResult:
    """Read the bits.json of a folder. Raises QualaError for a missing or damaged one."""
    found: BitsResult = read_stored(BitsResult, Path(folder) / RESULT)
    return found


def allocate(
    losses: Sequence[Sequence[float]], costs: Sequence[Sequence[int]], budget: int
) -> list[int]:
    """Return the choice of each site with the least sum of losses whose costs fit the budget.

    A knapsack with one choice for each site: exact where the costs above the cheapest have a
    common divisor of 1/20,000 of the budget, else on costs rounded up to that.

    Raises:
        QualaError: for a budget below the smallest sum.
    """
    spare = budget - sum(map(min, costs))
    if spare < 0:
        raise QualaError(f"The budget is {budget}; allowed is at least {budget - spare}.")
    extra = [[cost - min(row) for cost in row] for row in costs]
    unit = max(gcd(*(cost for row in extra for cost in row)), -(-spare // UNITS), 1)
    steps = [[-(-cost // unit) for cost in row] for row in extra]
    best, picks = np.zeros(spare // unit + 1), []  # the least sum for each part of the budget
    for loss, row in zip(losses, steps, strict=True):
        totals = np.full((len(row), len(best)), inf)
        for choice, step in enumerate(row):
            if step < len(best):
                totals[choice, step:] = best[: len(best) - step] + loss[choice]
        picks.append(totals.argmin(axis=0))
        best = totals.min(axis=0)
    chosen: list[int] = []
    left = int(best.argmin())
    for pick, row in zip(reversed(picks), reversed(steps), strict=True):
        chosen.insert(0, int(pick[left]))
        left -= row[chosen[0]]
    return chosen


class Sensitivity:
    """How far the answers of a model with rounded weights diverge from its own on some batches.

    Weights are rounded on the grids of `config`, with learned steps at their first values. Asked
    for weights of rising layers, it computes the layers below only once.
    """

    def __init__(
        self, model: LengthAdaptiveModel, batches: Sequence[Batch], config: QuantizeConfig
    ) -> None:
        self.model, self.batches, self.config = model.eval(), batches, config
        self._layer = 0
        with torch.no_grad():
            self._states = [model.begin(batch) for batch in batches]
            self._answers = [self._rest(state, 0) for state in self._states]

    @torch.no_grad()
    def divergence(self, bits: Mapping[str, int], layer: int | None = None) -> float:
        """Return the loss of the model's own soft labels with the weights of modules rounded.

        The mean over examples of KL(own || rounded), where the task has distributions. No module
        is read before `layer`; None is anywhere.
        """
        shared = layer is not None and layer >= self._layer
        while layer is not None and self._layer < layer:
            self._states = [self._through(state, self._layer) for state in self._states]
            self._layer += 1
        modules = [cast("nn.Linear", self.model.hf.get_submodule(name)) for name in bits]
        kept = [module.weight.data for module in modules]
        total = examples = 0.0
        try:
            for module, width in zip(modules, bits.values(), strict=True):
                weight, spec = module.weight.data, self.config.weights_at(width)
                module.weight.data = WeightQuantizer(weight, spec)(weight)
            for batch, state, own in zip(self.batches, self._states, self._answers, strict=True):
                start = state if shared else self.model.begin(batch)
                logits = self._rest(start, self._layer if shared else 0)
                total += float(soft_loss(self.model.task, logits, own, batch)) * len(logits)
                examples += len(logits)
        finally:
            for module, weight in zip(modules, kept, strict=True):
                module.weight.data = weight
        return total / examples

    def _rest(self, state: State, layer: int) -> Tensor:
        for number in range(layer, self.model.num_layers):
            state = self._through(state, number)
        return self.model.finish(state)

    def _through(self, state: State, layer: int) -> State:
        return self.model.narrow(self.model.attend(state, layer, scored=False), layer, None)
