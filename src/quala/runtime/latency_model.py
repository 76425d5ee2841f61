"""What lengths cost in milliseconds on one machine: measured once, then a sum over layers."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quala.lengths import LengthConfig, constant_drop, sample_few_drops
from quala.runtime.engine import Engine, Facts
from quala.runtime.timing import words

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
GENES, BOUND = 24, 0.35
HELD_OUT = 5
ROUNDS = 2


def terms(lengths: LengthConfig, tokens: int) -> Floats:
    """Return how much of each of `TERMS` an input of `tokens` tokens takes."""
    kept = lengths.kept(tokens)
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
    """Milliseconds of each of `TERMS`, with where they were measured and how well they fit.

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
    engine: Engine, facts: Facts, *, seed: int, repeats: int, timing: Mapping[str, Any]
) -> LatencyModel:
    """Time lengths of all kinds at several token counts, and fit what each term costs.

    The fit is by non-negative least squares on relative errors.
    """
    cases = _cases(facts, seed)
    times = np.array(time_cases(engine, cases, repeats=repeats))
    rows = np.array([terms(lengths, tokens) for lengths, tokens in cases])
    held = np.arange(len(cases)) % HELD_OUT == 0
    guess = rows[held] @ _fit(rows[~held], times[~held])
    error = float(np.median(np.abs(guess / times[held] - 1)))
    return LatencyModel(tuple(_fit(rows, times).tolist()), error, len(cases), timing)


def time_cases(
    engine: Engine, cases: Sequence[tuple[LengthConfig, int]], *, repeats: int
) -> list[float]:
    """Return the median milliseconds of each case, lengths and a token count.

    Cases that drop at the same layers share a compiled graph: they are timed together,
    interleaved, in two rounds over all such groups, so that a slow minute hits no group alone.
    """
    groups: dict[tuple[bool, ...], list[int]] = {}
    for number, (lengths, _) in enumerate(cases):
        groups.setdefault(lengths.drops, []).append(number)
    taken: list[list[float]] = [[] for _ in cases]
    for _ in range(ROUNDS):
        for group in groups.values():
            for repeat in range(repeats + 1):
                for number in group:
                    lengths, tokens = cases[number]
                    batch = words([tokens], seed=number)
                    started = time.perf_counter()
                    engine.logits(batch, lengths)
                    if repeat:  # the first run compiles
                        taken[number].append(1000 * (time.perf_counter() - started))
    return [statistics.median(each) for each in taken]


def _fit(rows: Floats, times: Floats) -> Floats:
    from scipy.optimize import nnls

    scale = rows.max(axis=0) / times.mean()  # columns of like size keep the solver well-behaved
    weighted = rows / scale / times[:, None]
    found: Floats = nnls(weighted, np.ones(len(times)))[0] / scale
    return found


def _cases(facts: Facts, seed: int) -> list[tuple[LengthConfig, int]]:
    rng = Random(seed)
    sizes = {"layers": facts.layers, "sequence_length": facts.sequence_length}
    genes = [LengthConfig.full(**sizes), *(constant_drop(r, **sizes) for r in (0.1, 0.2, 0.3))]
    while len(genes) < GENES:
        genes.append(sample_few_drops(BOUND, rng=rng, skipped=frozenset(), **sizes))
    longest = facts.sequence_length
    counts = sorted({count for count in TOKENS if count < longest} | {longest})
    chosen = [(gene, counts[number % len(counts)]) for number, gene in enumerate(genes * 3)]
    return chosen + [(genes[0], count) for count in counts]
