from collections.abc import Callable
from random import Random

import numpy as np
import pytest

from quala.lengths import LengthConfig
from quala.search.guided import expected_improvement, fit, likeliest, new_work, shared_prefixes
from quala.search.space import Space
from quala.search.strategy import EvaluatedLengths


def test_it_ranks_candidates_it_has_not_seen(score: Callable[[LengthConfig], float]) -> None:
    rng, space = Random(0), Space(6, 128)
    candidates = [space.draw(rng) for _ in range(60)]
    scores = [score(lengths) for lengths in candidates]
    kernel = likeliest(tuple(candidates), tuple(scores), space)
    others = [space.draw(rng) for _ in range(40)]
    mean, _ = fit(candidates, scores, kernel=kernel, space=space).predict(others)
    assert np.corrcoef(mean, [score(lengths) for lengths in others])[0, 1] > 0.99


def test_it_is_sure_of_what_it_has_seen_only() -> None:
    rng, space = Random(0), Space(4, 64)
    candidates = [space.draw(rng) for _ in range(20)]
    scores = [float(sum(lengths.lengths)) for lengths in candidates]
    kernel = likeliest(tuple(candidates), tuple(scores), space)
    model = fit(candidates, scores, kernel=kernel, space=space)
    _, near = model.predict(candidates[:1])
    _, far = model.predict([space.full])
    assert near[0] < far[0]


def test_expected_improvement_is_the_mean_gain_of_area() -> None:
    candidates = [LengthConfig((length,), 16) for length in (4, 8, 12)]
    front = [
        EvaluatedLengths(g, c, s)
        for g, c, s in zip(candidates, (1.0, 2.0, 4.0), (10.0, 12.0, 13.0))
    ]
    belief = (np.array([12.5]), np.array([1.0]))
    value = expected_improvement(front, belief, costs=np.array([1.5]), dearest=6.0)
    draws = np.random.default_rng(0).normal(12.5, 1.0, 200_000)
    steps = ((0.5, 10.0), (2.0, 12.0), (2.0, 13.0))
    gain = sum(width * np.maximum(draws - level, 0).mean() for width, level in steps)
    assert abs(value[0] - gain) < 0.02


def test_new_work_counts_layers_that_no_known_lengths_compute() -> None:
    space = Space(3, 12)
    known = shared_prefixes([LengthConfig((12, 6, 6), 12)], space)
    whole = 3 * 12.0
    assert new_work(LengthConfig((12, 6, 6), 12), known, space) == 0.0
    assert new_work(LengthConfig((12, 6, 3), 12), known, space) == pytest.approx(3 * 2 / 3 / whole)
    fresh = (6 * 2 / 3) + (6 / 3 + 6 * 2 / 3) * 2
    assert new_work(LengthConfig((6, 6, 6), 12), known, space) == pytest.approx(fresh / whole)
