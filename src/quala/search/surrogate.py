"""A small Gaussian process that predicts a gene's score from the shares it keeps.

The kernel is a mixture of a sum over layers and a product over layers: most of what a drop costs
adds up layer by layer, the rest is interaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from quala.lengths import LengthConfig

Array = NDArray[np.float64]

_POWERS = (0.5, 1.0)
_SCALES = (0.15, 0.3, 0.6, 1.2)
_ADDITIVE = (0.3, 0.9)
_NOISES = (1e-4, 3e-3, 5e-2)


@dataclass(frozen=True, slots=True)
class Kernel:
    """Hyper-parameters: the power that shares are raised to, length scale, additive part, noise.

    A power below one spreads small shares: a token may matter more where few are left.
    """

    power: float
    scale: float
    additive: float
    noise: float

    def __call__(self, a: Array, b: Array) -> Array:
        """Return the covariances of the genes with shares `a` (A, L) and `b` (B, L)."""
        near, far = a[:, None, :] ** self.power, b[None, :, :] ** self.power
        apart = ((near - far) / self.scale) ** 2  # (A, B, L)
        smooth: Array = np.exp(-0.5 * apart).mean(axis=-1)  # (A, B)
        # the product's scale grows with the layers, or distinct genes would never be neighbours
        joint = np.exp(-0.5 * apart.sum(axis=-1) / a.shape[1])
        return np.asarray(self.additive * smooth + (1 - self.additive) * joint)


def _shares(genes: Sequence[LengthConfig]) -> Array:
    lengths = np.array([gene.lengths for gene in genes], dtype=np.float64)  # (N, L)
    return np.asarray(lengths / genes[0].sequence_length, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Surrogate:
    """A fitted Gaussian process."""

    kernel: Kernel
    known: Array
    factor: Array
    weights: Array
    mean: float
    deviation: float

    def predict(self, genes: Sequence[LengthConfig]) -> tuple[Array, Array]:
        """Return the mean and the standard deviation of the scores of genes."""
        cross = self.kernel(_shares(genes), self.known)  # (G, N)
        solved = np.linalg.solve(self.factor, cross.T)  # (N, G)
        variance = np.maximum(1.0 - (solved**2).sum(axis=0), 1e-9)
        mean = self.mean + self.deviation * (cross @ self.weights)
        deviation = self.deviation * np.sqrt(variance)
        return np.asarray(mean, np.float64), np.asarray(deviation, np.float64)


def fit(genes: Sequence[LengthConfig], scores: Sequence[float], *, kernel: Kernel) -> Surrogate:
    """Fit to evaluated genes."""
    values = np.array(scores, dtype=np.float64)
    mean, deviation = float(values.mean()), float(values.std()) or 1.0
    known, targets = _shares(genes), (values - mean) / deviation
    factor, weights = _solve(kernel, known, targets)
    return Surrogate(kernel, known, factor, weights, mean, deviation)


@lru_cache(maxsize=4)
def likeliest(genes: tuple[LengthConfig, ...], scores: tuple[float, ...]) -> Kernel:
    """Return the kernel of a small grid under which the scores are likeliest."""
    values = np.array(scores, dtype=np.float64)
    targets = (values - values.mean()) / (values.std() or 1.0)
    shares = _shares(genes)
    grid = (Kernel(*point) for point in product(_POWERS, _SCALES, _ADDITIVE, _NOISES))
    return max(grid, key=lambda kernel: _likelihood(kernel, shares, targets))


def _solve(kernel: Kernel, known: Array, targets: Array) -> tuple[Array, Array]:
    covariance = kernel(known, known) + (kernel.noise + 1e-8) * np.eye(len(known))
    factor = np.linalg.cholesky(covariance)
    weights = np.linalg.solve(factor.T, np.linalg.solve(factor, targets))
    return np.asarray(factor, np.float64), weights


def _likelihood(kernel: Kernel, known: Array, targets: Array) -> float:
    factor, weights = _solve(kernel, known, targets)
    return float(-0.5 * targets @ weights - np.log(np.diag(factor)).sum())
