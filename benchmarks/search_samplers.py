"""The evolutionary sampler beside Optuna's own, on public test functions over integers.

    python benchmarks/search_samplers.py --out OUT     # two minutes on two idle cores

Every sampler gets the same trials on the same objective and the same two first ones where the
parameters of the objective never grow: all at their largest, all at their smallest. Optuna's
samplers do not know such groups; there the objective sorts what they ask for. What is counted is
the hypervolume after `--trials` trials, as a share of the box between the ideal and the reference
point, by its mean and its standard deviation over `--seeds` seeds; for one objective the best
value. The table goes to OUT/search_samplers.md, all numbers to OUT/search_samplers.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random
from statistics import mean, stdev
from typing import Any

import optuna
from optuna.distributions import IntDistribution

from quala.metrics.pareto import hypervolume
from quala.search import EvolutionarySampler

Numbers = Sequence[int]
POPULATION = 20
"""Of the evolutionary sampler and of one NSGA-II; Optuna's default, 50, leaves 150 trials with
three generations."""


def zdt1(x: Numbers) -> tuple[float, float]:
    """ZDT1 (Zitzler, Deb and Thiele 2000) on ten numbers in hundredths."""
    first, g = x[0] / 100, 1 + 9 * sum(x[1:]) / 100 / (len(x) - 1)
    return first, g * (1 - math.sqrt(first / g))


def lotz(x: Numbers) -> tuple[float, float]:
    """Leading ones, trailing zeros (Laumanns and others 2002), to minimize."""
    ones = next((place for place, bit in enumerate(x) if not bit), len(x))
    zeros = next((place for place, bit in enumerate(reversed(x)) if bit), len(x))
    return float(-ones), float(-zeros)


_RANDOM = Random(7)
_ITEMS = [tuple(_RANDOM.randint(10, 100) for _ in range(3)) for _ in range(20)]
"""Two profits and a weight of each."""


def knapsack(x: Numbers) -> tuple[float, float]:
    """Two profits of up to three of each of 20 items, the excess weight taken off both."""
    capacity = 1.5 * sum(weight for *_, weight in _ITEMS)
    over = max(0.0, sum(item[2] * times for item, times in zip(_ITEMS, x)) - capacity)
    first, second = (sum(i[of] * times for i, times in zip(_ITEMS, x)) for of in (0, 1))
    return 10 * over - first, 10 * over - second


def lengths(x: Numbers) -> tuple[float, float]:
    """What eight layers lose by dropping tokens, and their cost; no length is above the last."""
    weights = (30, 12, 5, 2, 1, 0.5, 0.3, 0.2)
    before = (128, *x[:-1])
    cost = sum(b + b * b / 100 + 2 * a for b, a in zip(before, x))
    return sum(w * (1 - a / 128) ** 2 for w, a in zip(weights, x)), cost


def rastrigin(x: Numbers) -> tuple[float]:
    """Rastrigin's function on ten integers, its optimum moved off the middle: one objective."""
    moved = [(value - 17) / 10 for value in x]
    return (sum(10 + v * v - 10 * math.cos(2 * math.pi * v) for v in moved),)


@dataclass(frozen=True)
class Problem:
    """An objective to minimize; the box is worse and better than all that matters."""

    objective: Callable[[Numbers], tuple[float, ...]]
    grid: IntDistribution
    size: int
    worst: tuple[float, ...]
    best: tuple[float, ...]
    never_grows: bool = False

    @property
    def space(self) -> dict[str, IntDistribution]:
        """The parameters by name."""
        return {f"x{place:02}": self.grid for place in range(self.size)}

    def score(self, found: Sequence[Sequence[float]]) -> float:
        """Return the share of the box that is dominated, or the best value."""
        if len(self.worst) == 1:
            return min(value for (value,) in found)
        (right, top), (left, bottom) = self.worst, self.best
        inside = [(max(first, left), max(second, bottom)) for first, second in found]
        scores, costs = [top - second for _, second in inside], [first for first, _ in inside]
        area = hypervolume(scores, costs, reference_score=0.0, reference_cost=right)
        return area / ((right - left) * (top - bottom))


_PROFITS = tuple(-3.0 * sum(item[of] for item in _ITEMS) for of in (0, 1))
PROBLEMS = {
    "lengths": Problem(
        lengths, IntDistribution(8, 128, step=4), 8,
        worst=(51.0, lengths([128] * 8)[1]), best=(0.0, lengths([8] * 8)[1]), never_grows=True,
    ),
    "ZDT1": Problem(zdt1, IntDistribution(0, 100), 10, worst=(1.1, 10.0), best=(0.0, 0.0)),
    "LOTZ": Problem(lotz, IntDistribution(0, 1), 20, worst=(1.0, 1.0), best=(-20.0, -20.0)),
    "knapsack": Problem(
        knapsack, IntDistribution(0, 3), 20, worst=(0.0, 0.0), best=(_PROFITS[0], _PROFITS[1])
    ),
    "Rastrigin": Problem(rastrigin, IntDistribution(-50, 50), 10, worst=(0.0,), best=(0.0,)),
}  # fmt: skip


def samplers(problem: Problem, seed: int) -> dict[str, Callable[[], optuna.samplers.BaseSampler]]:
    """Return what is compared."""
    groups = [list(problem.space)] if problem.never_grows else []
    return {
        "EvolutionarySampler": lambda: EvolutionarySampler(
            problem.space, non_increasing=groups, population_size=POPULATION, seed=seed
        ),
        "NSGA-II, 20": lambda: optuna.samplers.NSGAIISampler(population_size=20, seed=seed),
        "NSGA-II": lambda: optuna.samplers.NSGAIISampler(seed=seed),
        "TPE": lambda: optuna.samplers.TPESampler(seed=seed),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
    }


NAMES = tuple(samplers(PROBLEMS["ZDT1"], 0))


def run(name: str, sampler: str, seed: int, trials: int) -> dict[str, Any]:
    """Return the score after a third and all of the trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    problem = PROBLEMS[name]
    study = optuna.create_study(
        directions=["minimize"] * len(problem.worst), sampler=samplers(problem, seed)[sampler]()
    )
    if problem.never_grows:
        for value in (problem.grid.high, problem.grid.low):
            study.enqueue_trial(dict.fromkeys(problem.space, value))
    asked: list[Numbers] = []
    found: list[tuple[float, ...]] = []

    def objective(trial: optuna.Trial) -> tuple[float, ...]:
        chosen = [
            trial.suggest_int(parameter, grid.low, grid.high, step=grid.step)
            for parameter, grid in problem.space.items()
        ]
        asked.append(sorted(chosen, reverse=True) if problem.never_grows else chosen)
        found.append(problem.objective(asked[-1]))
        return found[-1]

    start = time.process_time()
    study.optimize(objective, n_trials=trials)
    seconds = time.process_time() - start
    scores = {str(end): problem.score(found[:end]) for end in (trials // 3, trials)}
    repeated = trials - len(set(map(tuple, asked)))
    return {"scores": scores, "repeated": repeated, "seconds": round(seconds, 2)}


def table(found: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], trials: int) -> str:
    """Return the table of the documentation."""
    lines = [f"| | {' | '.join(NAMES)} |", "|---" * (len(NAMES) + 1) + "|"]
    for (problem, by_sampler), end in product(found.items(), (trials // 3, trials)):
        cells = []
        for name in NAMES:
            scores = [one["scores"][str(end)] for one in by_sampler[name]]
            spread = stdev(scores) if len(scores) > 1 else 0.0
            digits = 1 if len(PROBLEMS[problem].worst) == 1 else 3
            cells.append(f"{mean(scores):.{digits}f} ± {spread:.{digits}f}")
        lines.append(f"| {problem}, {end} | {' | '.join(cells)} |")
    every = {name: [one for rows in found.values() for one in rows[name]] for name in NAMES}
    repeated = [f"{mean(one['repeated'] for one in every[name]):.0f}" for name in NAMES]
    lines.append(f"| repeated candidates | {' | '.join(repeated)} |")
    costs = [f"{1000 * mean(one['seconds'] for one in every[n]) / trials:.1f}" for n in NAMES]
    lines.append(f"| CPU milliseconds a trial | {' | '.join(costs)} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Run every sampler with every seed on every problem."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with ProcessPoolExecutor(arguments.processes) as pool:
        jobs = {
            (problem, name): [
                pool.submit(run, problem, name, seed, arguments.trials)
                for seed in range(arguments.seeds)
            ]
            for problem in arguments.problems
            for name in NAMES
        }
        for (problem, name), runs in jobs.items():
            found.setdefault(problem, {})[name] = [one.result() for one in runs]
            print(f"{problem}, {name}: done", file=sys.stderr, flush=True)
            if name == NAMES[-1]:
                write(found, arguments)
    print(table(found, arguments.trials))


def write(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Write what there is so far."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    kept = {"trials": arguments.trials, "seeds": arguments.seeds, "found": found}
    path = arguments.out / "search_samplers.json"
    path.write_text(json.dumps(kept) + "\n", encoding="utf-8")
    text = table(found, arguments.trials)
    (arguments.out / "search_samplers.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
