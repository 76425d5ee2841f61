"""The time of lengths on one machine: measured once, then predicted by a sum of terms."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quala.lengths import Layers, LengthConfig, constant_drop, sample_few_drops
from quala.runtime.engine import Engine
from quala.runtime.hardware import Conditions, Watch
from quala.runtime.timing import WORDS, interleaved, spread, synthetic_inputs

Floats = NDArray[np.float64]
TERMS = (
    "call",
    "token",
    "attended_token",
    "attended_pair",
    "fed_token",
    "drop",
    "ranked_token",
    "gathered_token",
)
TOKENS = (32, 64, 96, 128, 164, 208, 256, 320, 384, 512)
CANDIDATES, BOUND = 24, 0.35
"""Lengths that are timed, and the largest share of tokens that one of their layers drops. Each
is timed at three token counts, 72 measurements for eight terms; chosen by hand, not tuned."""
HELD_OUT = 5
"""One measurement in so many checks the fit and takes no part in it; chosen by hand."""
ROUNDS = 2
"""Timings of a group at two moments, so that other work on the machine disturbs one of them."""


def terms(lengths: LengthConfig, tokens: int) -> Floats:
    """Return the amount of each of `TERMS` for an input of `tokens` tokens."""
    kept = lengths.extracted.kept(tokens)
    before = (tokens, *kept[:-1])
    dropping = [(many, few) for many, few in zip(before, kept, strict=True) if few < many]
    return np.array(
        [
            1.0,
            tokens,
            sum(before),
            sum(many * many for many in before),
            sum(kept),
            len(dropping),
            sum(many for many, _ in dropping),
            sum(few for _, few in dropping),
        ],
        dtype=np.float64,
    )


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """Milliseconds of each of `TERMS`, how they were measured, and how well they fit.

    `error` is the median relative error on measurements that the fit did not see.
    """

    coefficients: tuple[float, ...]
    error: float
    measurements: int
    timing: Mapping[str, Any]

    def milliseconds(self, lengths: LengthConfig, tokens: int) -> float:
        """Predict the time of one input."""
        return float(terms(lengths, tokens) @ np.array(self.coefficients))

    def mean(self, lengths: LengthConfig, counts: Sequence[int]) -> float:
        """Predict the mean time of inputs of these token counts."""
        values, often = np.unique(np.asarray(counts), return_counts=True)
        times = [self.milliseconds(lengths, int(count)) for count in values]
        return float(np.average(times, weights=often))

    def to_json(self) -> str:
        """Return the JSON form, coefficients by the name of their term."""
        facts = asdict(self) | {
            "coefficients": dict(zip(TERMS, self.coefficients, strict=True)),
        }
        return json.dumps(facts, indent=1)

    @classmethod
    def from_json(cls, text: str) -> LatencyModel:
        """Read what `to_json` wrote."""
        facts = json.loads(text)
        coefficients = tuple(float(facts["coefficients"][name]) for name in TERMS)
        return cls(**{**facts, "coefficients": coefficients})


def measure_latency_model(
    engine: Engine,
    full: LengthConfig,
    *,
    seed: int,
    repeats: int,
    timing: Mapping[str, Any],
    layers: Layers = (),
    words: int = WORDS,
) -> LatencyModel:
    """Time lengths of all kinds at several token counts, and fit the time of each term.

    `full` are the engine's lengths without any drop, `layers` those of a sub-network, `words` the
    size of the vocabulary.
    The fit is by non-negative least squares on relative errors.
    """
    cases = [(lengths.of(layers), tokens) for lengths, tokens in _cases(full, seed)]
    taken, conditions = time_cases(engine, cases, repeats=repeats, words=words)
    times = np.array(taken)
    rows = np.array([terms(lengths, tokens) for lengths, tokens in cases])
    held = np.arange(len(cases)) % HELD_OUT == 0
    guess = rows[held] @ _fit(rows[~held], times[~held])
    error = float(np.median(np.abs(guess / times[held] - 1)))
    facts = {**timing, "conditions": asdict(conditions)}
    return LatencyModel(tuple(_fit(rows, times).tolist()), error, len(cases), facts)


def time_cases(
    engine: Engine,
    cases: Sequence[tuple[LengthConfig, int]],
    *,
    repeats: int,
    words: int = WORDS,
) -> tuple[list[float], Conditions]:
    """Return the median milliseconds of each case, lengths and a token count.

    Cases that drop at the same layers of one structure share a compiled graph: they are timed
    together, interleaved, in `ROUNDS` rounds over all groups, so that a slow period affects all
    groups. How far the rounds differ is part of the conditions, which are returned too.
    """
    watch = Watch()
    groups: dict[tuple[tuple[bool, ...], Layers], list[int]] = {}
    for number, (lengths, _) in enumerate(cases):
        groups.setdefault((lengths.drops, lengths.layers), []).append(number)
    calls = [
        [partial(engine.logits, synthetic_inputs([tokens], seed=number, words=words), lengths)]
        * repeats
        for number, (lengths, tokens) in enumerate(cases)
    ]
    taken: list[list[float]] = [[] for _ in cases]
    for _ in range(ROUNDS):
        for group in groups.values():
            times = interleaved([calls[number] for number in group], warmup=1)  # compiles
            for number, found in zip(group, times, strict=True):
                taken[number] += found
    first, second = ([statistics.median(each[part]) for each in taken]
                     for part in (slice(repeats), slice(repeats, None)))  # fmt: skip
    return [statistics.median(each) for each in taken], watch.conditions(spread(first, second))


def _fit(rows: Floats, times: Floats) -> Floats:
    from scipy.optimize import nnls

    scale = rows.max(axis=0) / times.mean()  # columns of like size keep the solver well-behaved
    weighted = rows / scale / times[:, None]
    found: Floats = nnls(weighted, np.ones(len(times)))[0] / scale
    return found


def _cases(full: LengthConfig, seed: int) -> list[tuple[LengthConfig, int]]:
    rng, longest = Random(seed), full.sequence_length
    sizes = {"layers": len(full.lengths), "sequence_length": longest}
    drops = (constant_drop(rate, skipped=frozenset(), **sizes) for rate in (0.1, 0.2, 0.3))
    candidates = [full, *drops]
    while len(candidates) < CANDIDATES:
        candidates.append(sample_few_drops(BOUND, rng=rng, skipped=frozenset(), **sizes))
    counts = sorted({count for count in TOKENS if count < longest} | {longest})
    chosen = [(one, counts[number % len(counts)]) for number, one in enumerate(candidates * 3)]
    return chosen + [(full, count) for count in counts]
