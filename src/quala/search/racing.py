"""When a gene may be given up before all examples have been seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def standard_error(differences: Array) -> Array:
    """Return the standard error of the mean over the last axis."""
    error: Array = differences.std(axis=-1, ddof=1) / math.sqrt(differences.shape[-1])
    return error


@dataclass(frozen=True, slots=True)
class Race:
    """The rule: a gene that costs no less than a rival and is surely worse has lost.

    `z` standard errors of the mean difference on the same examples count as sure; with fewer
    than `minimum` examples nothing does. Against a rival scored on all `total` examples, a gene
    has lost for certain when `highest` on all that remain would not lift it to the rival.
    """

    z: float
    minimum: int
    total: int
    highest: float = 100.0

    def lost(
        self, seen: Array, rivals: Sequence[Array], *, finished: Sequence[float] = ()
    ) -> bool:
        """Say whether a gene has lost.

        `seen` are its scores on the first examples, `rivals` the scores of no dearer genes on at
        least these examples, `finished` the final scores of no dearer genes.
        """
        count = len(seen)
        reachable = (seen.sum() + self.highest * (self.total - count)) / self.total
        if finished and reachable < max(finished):
            return True
        if count < self.minimum or not rivals:
            return False
        apart = seen - np.stack([rival[:count] for rival in rivals])  # (R, count)
        return bool((apart.mean(axis=1) + self.z * standard_error(apart) < 0).any())
