"""quala's own strategy: a Gaussian process predicts scores and proposes what improves the front.

The kernel mixes a sum over layers with a product over layers: most of the loss from dropping
tokens adds up layer by layer, the rest is interaction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from random import Random

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from quala.lengths import Layers, LengthConfig
from quala.search.additive import AdditiveTable
from quala.search.space import (
    Space,
    average,
    constant_rates,
    jitter,
    mutate,
    pick,
    restructure,
    set_suffix,
    splice,
    stop_dropping,
)
from quala.search.strategy import (
    Acceptance,
    EvaluatedLengths,
    Proposal,
    SearchSettings,
    distinct,
    frontier,
)

Array = NDArray[np.float64]

_POWERS = (0.5, 1.0)
_SCALES = (0.15, 0.3, 0.6, 1.2)
_ADDITIVE = (0.3, 0.9)
_NOISES = (1e-4, 3e-3, 5e-2)
"""The grid of hyper-parameters for standardized scores: 48 kernels, from which the likeliest is
taken. Small enough to try anew in every generation; chosen by hand, not tuned."""


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
        """Return the covariances (A, B) of lengths with shares `a` (A, L) and `b` (B, L)."""
        near, far = a[:, None, :] ** self.power, b[None, :, :] ** self.power
        apart = ((near - far) / self.scale) ** 2  # (A, B, L)
        smooth: Array = np.exp(-0.5 * apart).mean(axis=-1)  # (A, B)
        # Without the division distinct lengths of many layers would have no covariance at all.
        joint = np.exp(-0.5 * apart.sum(axis=-1) / a.shape[1])
        return np.asarray(self.additive * smooth + (1 - self.additive) * joint)


def _shares(candidates: Sequence[LengthConfig], space: Space) -> Array:
    """Return the shares of tokens that layers keep, and of units that run, (N, L) or (N, 2 L)."""
    lengths = np.array([one.lengths for one in candidates], dtype=np.float64)  # (N, L)
    shares = lengths / candidates[0].sequence_length
    if space.structures:
        shares = np.hstack([shares, [space.shares(one.layers) for one in candidates]])  # (N, 2 L)
    return np.asarray(shares, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Surrogate:
    """A fitted Gaussian process."""

    space: Space
    kernel: Kernel
    known: Array
    factor: Array
    weights: Array
    mean: float
    deviation: float
    prior: AdditiveTable | None = None

    def predict(self, candidates: Sequence[LengthConfig]) -> tuple[Array, Array]:
        """Return the mean and the standard deviation of the candidates' scores, (C,) each."""
        cross = self.kernel(_shares(candidates, self.space), self.known)  # (C, N)
        solved = np.linalg.solve(self.factor, cross.T)  # (N, C)
        variance = np.maximum(1.0 - (solved**2).sum(axis=0), 1e-9)
        mean = self.mean + self.deviation * (cross @ self.weights)
        mean = mean if self.prior is None else mean + self.prior.scores(candidates)
        deviation = self.deviation * np.sqrt(variance)
        return np.asarray(mean, np.float64), np.asarray(deviation, np.float64)


def fit(
    evaluated: Sequence[LengthConfig],
    scores: Sequence[float],
    *,
    kernel: Kernel,
    space: Space,
    prior: AdditiveTable | None = None,
) -> Surrogate:
    """Fit to evaluated lengths, or with a `prior` to what their scores are beside it."""
    values = _beside(prior, evaluated, scores)
    mean, deviation = float(values.mean()), float(values.std()) or 1.0
    known, targets = _shares(evaluated, space), (values - mean) / deviation
    factor, weights = _solve(kernel, known, targets)
    return Surrogate(space, kernel, known, factor, weights, mean, deviation, prior)


def _beside(
    prior: AdditiveTable | None, evaluated: Sequence[LengthConfig], scores: Sequence[float]
) -> Array:
    values = np.array(scores, dtype=np.float64)
    return values if prior is None else values - prior.scores(evaluated)


@lru_cache(maxsize=4)
def likeliest(
    evaluated: tuple[LengthConfig, ...], scores: tuple[float, ...], space: Space
) -> Kernel:
    """Return the kernel of a small grid under which the scores are likeliest."""
    values = np.array(scores, dtype=np.float64)
    targets = (values - values.mean()) / (values.std() or 1.0)
    shares = _shares(evaluated, space)
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


# Chosen by hand, not tuned; docs/performance.md, "Evaluations to a front", says how far they get.
_POOL = 192
"""Draws of children for one proposal, two from each: few enough that choosing stays cheap beside
scoring, some 5 CPU seconds for 200 proposals."""
_ROUNDS, _REFINED = 3, 8
"""Rounds in which the best so many children are each varied so many times."""
_KEEPS = (0.5, 0.15, 0.3, 0.7)
"""Shares that the single drops of the first generation keep, tried in this order."""
_OVERHEAD = 0.1
"""Work of scoring, in full passes, that does not depend on the lengths; it also keeps lengths
that add almost no work from an infinite worth."""
_THRIFT = 1.0
"""Power of the work that an improvement is divided by: 1 is gain per work, 0 gain alone."""


@dataclass(frozen=True, slots=True)
class Guided:
    """Proposes the child with the largest expected hypervolume improvement.

    Children come from the frontier, more from its widest gaps. The frontier is made of predicted
    scores, and the lengths accepted earlier in the generation are part of it, which keeps a
    generation diverse.
    """

    space: Space
    accept: Acceptance
    settings: SearchSettings

    def seeds(self) -> tuple[LengthConfig, ...]:
        """Return both ends, structures, single drops from the last layer on, constant rates."""
        population = self.settings.population
        rates = constant_rates(self.space, max(2, population // 4))
        ends = [self.space.full, self.space.lowest]
        whole, layers = self.space.sequence_length, self.space.layers
        drops = [
            self.space.repair([whole] * (layers - last) + [keep * whole] * last)
            for keep in _KEEPS
            for last in range(1, layers + 1)
        ]
        own = self.space.structures
        thinner = [rate.of(layers) for rate in (self.space.full, *rates) for layers in own]
        mixed = [one for pair in zip(thinner, (*rates, *drops), strict=False) for one in pair]
        first = [*mixed, *rates, *drops] if own else [*rates, *drops]
        bounded = [one for one in first if self.accept(one, frozenset(ends))]
        return distinct([*ends, *bounded])[: population + 2]

    def parents(self, known: Sequence[EvaluatedLengths]) -> list[EvaluatedLengths]:
        """Return everything known: the surrogate also needs the bad lengths."""
        return list(known)

    def propose(
        self,
        rng: Random,
        *,
        parents: Sequence[EvaluatedLengths],
        accepted: Sequence[LengthConfig],
        seen: AbstractSet[LengthConfig],
    ) -> Proposal | None:
        """Return the most promising of a few hundred children."""
        surrogate, believed = self._believe(parents, accepted)
        front = frontier(believed)
        pool = self._children(front, accepted, rng, seen=seen)
        if not pool:
            return None
        known = shared_prefixes(accepted, self.space)
        worth = partial(self._worth, surrogate, front, known)
        for _ in range(_ROUNDS):
            best = _best(pool, worth(pool), _REFINED)
            near = [
                restructure(jitter(one, rng, space=self.space), rng, space=self.space)
                for one in best * _REFINED
            ]
            pool = [*best, *self._admitted(near, seen)]
        return Proposal(_best(pool, worth(pool), 1)[0], "guided")

    def _believe(
        self, parents: Sequence[EvaluatedLengths], accepted: Sequence[LengthConfig]
    ) -> tuple[Surrogate, list[EvaluatedLengths]]:
        """Return the surrogate, and everything known or accepted with its predicted scores.

        A score on few examples is partly luck, and a front of lucky scores cannot be improved.
        """
        evaluated, scores = [one.lengths for one in parents], [one.score for one in parents]
        prior = AdditiveTable.of(parents) if self.settings.prior == "additive" else None
        targets = _beside(prior, evaluated, scores).tolist()
        kernel = likeliest(tuple(evaluated), tuple(targets), self.space)
        given = partial(fit, kernel=kernel, space=self.space, prior=prior)
        surrogate = given(evaluated, scores)
        believed = [*evaluated, *accepted]
        means = surrogate.predict(believed)[0].tolist()
        if accepted:
            values = [*scores, *means[len(evaluated) :]]
            surrogate = given(believed, values)
        stopped = [*(known.stopped for known in parents), *(False for _ in accepted)]
        return surrogate, [
            EvaluatedLengths(lengths, self.accept.cost(lengths), mean, stop)
            for lengths, mean, stop in zip(believed, means, stopped, strict=True)
        ]

    def _children(
        self,
        front: Sequence[EvaluatedLengths],
        accepted: Sequence[LengthConfig],
        rng: Random,
        *,
        seen: AbstractSet[LengthConfig],
    ) -> list[LengthConfig]:
        gaps = _gaps(front, self.accept.dearest)
        parents = [known.lengths for known in front]
        stems = [self.space.full, *accepted]
        children = []
        for _ in range(_POOL):
            first, second = rng.choices(parents, weights=gaps, k=2)
            child = self._child(first, second, rng)
            stem = rng.choice(stems)
            children += [child, splice(stem, child, rng, space=self.space)]
        return self._admitted(children, seen)

    def _child(self, first: LengthConfig, second: LengthConfig, rng: Random) -> LengthConfig:
        space = self.space
        binary = (
            partial(splice, first, second, rng, space=space),
            partial(pick, first, second, rng, space=space),
            partial(average, first, second, space=space),
        )
        unary = (
            partial(jitter, first, rng, space=space),
            partial(set_suffix, first, rng, space=space),
            partial(stop_dropping, first, rng, space=space),
            partial(mutate, first, rng, space=space, probability=0.5),
            partial(space.draw, rng),
        )
        return restructure(rng.choice((*binary, *unary))(), rng, space=space)

    def _admitted(
        self, children: Sequence[LengthConfig], seen: AbstractSet[LengthConfig]
    ) -> list[LengthConfig]:
        return [child for child in distinct(children) if self.accept(child, seen)]

    def _worth(
        self,
        surrogate: Surrogate,
        front: Sequence[EvaluatedLengths],
        known: AbstractSet[Prefix],
        pool: Sequence[LengthConfig],
    ) -> Array:
        """Return the expected improvement of each child per work of scoring it, (C,)."""
        costs = np.array([self.accept.cost(one) for one in pool])
        gain = expected_improvement(
            front, surrogate.predict(pool), costs=costs, dearest=self.accept.dearest
        )
        work = np.array([new_work(one, known, self.space) for one in pool])
        return np.asarray(gain / (_OVERHEAD + work) ** _THRIFT, dtype=np.float64)


Prefix = tuple[Layers, tuple[int, ...]]
"""A structure, and the lengths of its first layers."""


def shared_prefixes(candidates: Sequence[LengthConfig], space: Space) -> frozenset[Prefix]:
    """Return the beginnings of `candidates` and of the full length: their layers are computed."""
    known = [space.full, *candidates]
    return frozenset(
        (one.layers, one.lengths[:end]) for one in known for end in range(1, space.layers + 1)
    )


def new_work(config: LengthConfig, known: AbstractSet[Prefix], space: Space) -> float:
    """Return the share of a full pass that scoring lengths adds to the beginnings in `known`.

    A third of a layer is attention, on the tokens that reach it, the rest feed-forward, on the
    tokens that it keeps; an evaluator computes each once for all lengths that begin alike in one
    structure.
    """
    work, reaching, shared = 0.0, config.sequence_length, True
    shares = space.shares(config.layers)
    for layer, length in enumerate(config.lengths, start=1):
        share = shares[layer - 1]
        work += 0.0 if shared else share * reaching / 3
        shared = shared and (config.layers, config.lengths[:layer]) in known
        work += 0.0 if shared else share * 2 * length / 3
        reaching = length
    return work / (config.sequence_length * len(config.lengths))


def expected_improvement(
    front: Sequence[EvaluatedLengths], belief: tuple[Array, Array], *, costs: Array, dearest: float
) -> Array:
    """Return the expected growth of the area under the front, for each candidate, (C,).

    `belief` holds the means and deviations of the candidates' scores; `dearest` is the right end
    of the area. Left of the front's cheapest point the area starts at that point's score.
    """
    mean, deviation = belief
    starts = np.array([-math.inf, *(known.cost for known in front)])  # (S,)
    ends = np.array([*(known.cost for known in front), max(dearest, front[-1].cost)])
    levels = np.array([front[0].score, *(known.score for known in front)])
    widths = np.clip(ends[None, :] - np.maximum(starts[None, :], costs[:, None]), 0, None)
    above = (mean[:, None] - levels[None, :]) / deviation[:, None]  # (C, S)
    density = np.exp(-0.5 * above**2) / math.sqrt(2 * math.pi)
    gain = deviation[:, None] * (density + above * ndtr(above))
    return np.asarray((widths * gain).sum(axis=1), dtype=np.float64)


def _gaps(front: Sequence[EvaluatedLengths], dearest: float) -> list[float]:
    """Return the weight of each front point: the mean share of all points plus its step's area."""
    ends = [*(known.cost for known in front[1:]), dearest]
    rises = [*(known.score for known in front[1:]), front[-1].score]
    areas = [
        max(0.0, (end - known.cost) * (rise - known.score))
        for known, end, rise in zip(front, ends, rises)
    ]
    total = sum(areas) or 1.0
    return [1 / len(front) + area / total for area in areas]


def _best(pool: Sequence[LengthConfig], values: Array, count: int) -> list[LengthConfig]:
    order = np.argsort(-values, kind="stable")[:count]
    return [pool[int(index)] for index in order]
