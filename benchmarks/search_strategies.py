"""How many evaluations a search needs: hypervolume by strategy from one budget.

    python benchmarks/search_strategies.py --out OUT                      # a synthetic objective
    python benchmarks/search_strategies.py --out OUT --model FOLDER --data FOLDER --questions 40

All strategies search one space: lengths on the grid of `--step` that cost no less than dropping
the share `--floor` at every layer (0.2, the published lower bound). A cheaper candidate is
rejected unscored by all of them, since its cost is known beforehand. `nsga2` is Optuna's with its
defaults from a random population; its candidates are made non-increasing by `Space.repair`, and
one that comes again takes part but counts as one evaluation. `quala`, whose Gaussian process grows
with the cube of the evaluations, runs to `--quala-budget` only; so does `bayesian`, Optuna's tree
of Parzen estimators one candidate at a time, which `--strategies` adds.

The hypervolume is the best score that a cost allows, averaged over the costs from the cheapest
lengths to the full length: its reference point, one for all, is score 0 at the full length's cost.
With `--holdout N` the fronts are scored once more on N questions of the test set, which no
strategy saw: at the end of each search, and where quala's budget ends. What a long search gains
by the luck of a few questions is not gained there.

Scores are kept in OUT, so that a killed run goes on and strategies share them; what is written is
search_strategies.json, after every search, and search_strategies.png.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import optuna
from optuna.trial import TrialState
from search_objectives import Store, checkpoint_store, synthetic_store

from quala.lengths import LengthConfig
from quala.metrics.pareto import hypervolume
from quala.search.space import Space
from quala.search.strategy import (
    MOST,
    EvaluatedLengths,
    SearchSettings,
    build_strategy,
    frontier,
)

NAMES = ("quala", "published", "nsga2")
CHOICES = (*NAMES, "bayesian")
UNBOUNDED = ("published", "nsga2")
TARGET = 180
_POPULATION = 50
_MOST_ASKED = 20
_SHOWN = 40
_COLORS = {"quala": "#0369a1", "published": "#b45309", "nsga2": "#6b7280", "bayesian": "#15803d"}

Volume = Callable[[Sequence[EvaluatedLengths]], float]
Runs = dict[str, dict[int, "Run"]]


@dataclass(frozen=True)
class Run:
    """One search: its candidates in order, the CPU seconds that it took to choose them, and the
    hypervolume of its fronts on questions that it did not see, by evaluations."""

    known: Sequence[EvaluatedLengths]
    seconds: float
    held_out: dict[str, float]


def main(argv: Sequence[str] | None = None) -> None:
    """Search with every strategy and seed, and print one table."""
    arguments = parse(argv)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    store, space = open_store(arguments)
    volume = partial(area, cheapest=store.cost(space.lowest), dearest=store.cost(space.full))
    runs: Runs = {name: {} for name in arguments.strategies}
    held_out = open_holdout(arguments)
    for seed in range(1, arguments.seeds + 1):
        for name in arguments.strategies:
            budget = arguments.budget if name in UNBOUNDED else arguments.quala_budget
            start, scoring = time.process_time(), store.seconds
            known = search(name, store, space, seed=seed, budget=min(budget, arguments.budget))
            seconds = time.process_time() - start - (store.seconds - scoring)
            runs[name][seed] = Run(known, seconds, held_out(known))
            print(f"{name}, seed {seed}: {volume(known):.3f}", file=sys.stderr, flush=True)
            found = summary(runs, volume, arguments, store)
            write(found, arguments.out / "search_strategies.json")
    draw(found, arguments.out / "search_strategies.png")
    show(found)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, help="a checkpoint; a synthetic objective without")
    parser.add_argument("--data", help="a SQuAD folder; the demo set without it")
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--budget", type=int, default=1822)
    parser.add_argument("--quala-budget", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strategies", nargs="+", choices=CHOICES, default=list(NAMES))
    parser.add_argument("--step", type=int, default=1, help="granularity of the lengths")
    parser.add_argument("--floor", type=float, default=0.2)
    parser.add_argument("--holdout", type=int, default=0, help="questions for a second look")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    if arguments.holdout and arguments.model is None:
        parser.error("--holdout needs --model: the synthetic objective has no questions")
    return arguments


def open_store(arguments: argparse.Namespace) -> tuple[Store, Space]:
    """Return the objective, with the scores that an earlier run left, and its space."""
    file = arguments.out / "search_strategies.scores.jsonl"
    sizes = {"step": arguments.step, "floor": arguments.floor}
    if arguments.model is None:
        return synthetic_store(file, **sizes)
    sizes |= {"questions": arguments.questions, "batch": arguments.batch}
    return checkpoint_store(arguments.model, arguments.data, file, **sizes)


def open_holdout(
    arguments: argparse.Namespace,
) -> Callable[[Sequence[EvaluatedLengths]], dict[str, float]]:
    """Return what scores the fronts of a search on held-out questions, nothing without any."""
    if not arguments.holdout:
        return lambda known: {}
    file = arguments.out / "search_strategies.holdout.jsonl"
    sizes = {"step": arguments.step, "floor": arguments.floor, "batch": arguments.batch}
    store, space = checkpoint_store(
        arguments.model, arguments.data, file, questions=arguments.holdout, test=True, **sizes
    )
    volume = partial(area, cheapest=store.cost(space.lowest), dearest=store.cost(space.full))

    def scored(known: Sequence[EvaluatedLengths]) -> dict[str, float]:
        ends = sorted({min(arguments.quala_budget, len(known)), len(known)})
        fronts = {end: [point.lengths for point in frontier(known[:end])] for end in ends}
        return {str(end): volume(store.known(candidates)) for end, candidates in fronts.items()}

    return scored


def area(known: Sequence[EvaluatedLengths], *, cheapest: float, dearest: float) -> float:
    """Return the hypervolume divided by the range of costs."""
    scores, costs = [point.score for point in known], [point.cost for point in known]
    whole = hypervolume(scores, costs, reference_score=0.0, reference_cost=dearest)
    return whole / (dearest - cheapest)


def search(
    name: str, store: Store, space: Space, *, seed: int, budget: int
) -> list[EvaluatedLengths]:
    """Return the candidates that a strategy evaluates, each once, in their order."""
    if name == "nsga2":
        return search_nsga2(store, space, seed=seed, budget=budget)
    return search_strategy(name, store, space, seed=seed, budget=budget)


def search_strategy(
    name: str, store: Store, space: Space, *, seed: int, budget: int
) -> list[EvaluatedLengths]:
    """Search as `quala.search.study.run_search` does, without a study on disk."""
    sizes = settings(name, seed=seed)
    strategy = build_strategy(sizes, space, store.cost)
    known = store.known(strategy.seeds()[:budget])
    while len(known) < budget:
        chosen = set(strategy.parents(known))
        parents = [point for point in known if point in chosen]
        seen, accepted = {point.lengths for point in known}, list[LengthConfig]()
        for slot in range(len(known), min(len(known) + sizes.generation_size, budget)):
            proposal = strategy.propose(
                Random(f"{seed}:{slot}"), parents=parents, accepted=accepted, seen=frozenset(seen)
            )
            if proposal is None:
                break
            accepted.append(proposal.lengths)
            seen.add(proposal.lengths)
        if not accepted:
            break
        known += store.known(accepted)
    return known


def settings(name: str, *, seed: int) -> SearchSettings:
    """Return the published sizes, or those that quala's configuration ships."""
    sizes = {"published": (20, 30, 30), "quala": (20, 10, 10), "bayesian": (10, 1, 0)}
    population, mutations, crossovers = sizes[name]
    return SearchSettings(
        seed=seed,
        strategy=name,
        max_evaluations=MOST,  # the caller's budget ends the search
        generations=1,
        population=population,
        mutations=mutations,
        crossovers=crossovers,
    )


def search_nsga2(store: Store, space: Space, *, seed: int, budget: int) -> list[EvaluatedLengths]:
    """Search with Optuna's NSGA-II, a generation at a time; it gives up when nothing new comes."""
    sampler = optuna.samplers.NSGAIISampler(population_size=_POPULATION, seed=seed)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    cheapest, known = store.cost(space.lowest), dict[LengthConfig, EvaluatedLengths]()
    while len(known) < budget and len(study.get_trials(deepcopy=False)) < _MOST_ASKED * budget:
        asked: list[tuple[optuna.Trial, LengthConfig]] = []
        fresh: set[LengthConfig] = set()
        while len(asked) < _POPULATION and len(known) + len(fresh) < budget:
            trial = study.ask(space.distributions())
            lengths = space.repair(trial.params[name] for name in space.distributions())
            if store.cost(lengths) < cheapest:
                study.tell(trial, state=TrialState.FAIL)
            else:
                asked.append((trial, lengths))
                fresh |= {lengths} - known.keys()
        for (trial, lengths), point in zip(asked, store.known([lengths for _, lengths in asked])):
            study.tell(trial, [point.score, point.cost])
            known.setdefault(lengths, point)
    return list(known.values())


def needed(known: Sequence[EvaluatedLengths], volume: Volume, level: float) -> int | None:
    """Return after how many evaluations the hypervolume is at `level`, None if it never is."""
    count = bisect_left(range(len(known) + 1), level, key=lambda end: volume(known[:end]))
    return count if count <= len(known) else None


def thinned(count: int) -> list[int]:
    """Return the evaluations to note: the first 20, then 20 to each doubling, and the last."""
    rare = {round(20 * 2 ** (k / 20)) for k in range(math.ceil(20 * math.log2(count / 20)))}
    return sorted({*range(1, 21), *rare, count} - set(range(count + 1, 21)))


def summary(
    runs: Runs, volume: Volume, arguments: argparse.Namespace, store: Store
) -> dict[str, Any]:
    """Return what the table, the figure and the JSON file show."""
    ends = sorted(volume(run.known) for run in runs.get("published", {}).values())
    levels = {"median": median(ends), "best": max(ends)} if ends else {}
    options = ("budget", "quala_budget", "seeds", "step", "floor")
    return {
        "objective": store.identity["objective"],
        "questions": len(store.identity.get("questions", ())),
        "holdout": arguments.holdout,
        **{name: getattr(arguments, name) for name in options},
        "published_final": levels,
        "runs": [
            {
                "strategy": name,
                "seed": seed,
                "evaluations": len(run.known),
                "seconds_to_choose": round(run.seconds, 1),
                "needed": {key: needed(run.known, volume, at) for key, at in levels.items()},
                "final": volume(run.known),
                "held_out": run.held_out,
                "history": [
                    [end, round(volume(run.known[:end]), 4)] for end in thinned(len(run.known))
                ],
            }
            for name, seeds in runs.items()
            for seed, run in seeds.items()
        ],
    }


def write(found: dict[str, Any], file: Path) -> None:
    """Write the JSON file, a line for each search."""
    lines = [json.dumps(run) for run in found["runs"]]
    head = json.dumps({key: value for key, value in found.items() if key != "runs"}, indent=1)
    text = head.removesuffix("\n}") + ',\n "runs": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"
    file.write_text(text, encoding="utf-8")


def draw(found: dict[str, Any], file: Path) -> None:
    """Draw each strategy's median over the seeds, and the band between its extremes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    early, highest = math.inf, 0.0
    for name, color in _COLORS.items():
        histories = [dict(run["history"]) for run in found["runs"] if run["strategy"] == name]
        ends = sorted(set.intersection(*map(set, histories))) if histories else []
        if not ends:
            continue
        bands = [[history[end] for history in histories] for end in ends]
        middle = [median(band) for band in bands]
        label = f"{name}, median of {len(histories)} to {ends[-1]:,} evaluations"
        axis.step(ends, middle, where="post", color=color, linewidth=1.6, label=label)
        extremes = [min(band) for band in bands], [max(band) for band in bands]
        axis.fill_between(ends, *extremes, step="post", color=color, alpha=0.18, linewidth=0)
        early = min(early, middle[bisect_left(ends, min(_SHOWN, ends[-1]))])
        highest = max(highest, *extremes[1])
    if level := found["published_final"].get("median"):
        label = "published, final"
        axis.axhline(level, color=_COLORS["published"], linewidth=1.0, linestyle="--", label=label)
    title = f"objective {found['objective']}, step {found['step']}, floor {found['floor']}"
    axis.set_title(title, loc="left", fontsize=9)
    axis.set_xscale("log")
    axis.set_xlim(left=10)
    margin = 0.08 * (highest - early) or 1.0
    axis.set_ylim(early - margin, highest + margin)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set_xlabel("evaluations of distinct lengths")
    axis.set_ylabel("mean best score over the range of costs")
    axis.grid(color="#e5e7eb", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower right", fontsize=8)
    figure.savefig(file)


def show(found: dict[str, Any]) -> None:
    """Print one table."""
    print(f"objective {found['objective']}, step {found['step']}, floor {found['floor']}")
    print(f"{'strategy':<12}{'seed':>5}{'evals':>7}{'hypervolume':>13}{'to median':>11}", end="")
    print(f"{'to best':>9}{'choosing s':>12}  held out")
    for run in found["runs"]:
        counts = [run["needed"].get(key) for key in ("median", "best")]
        first, second = ("-" if count is None else str(count) for count in counts)
        print(f"{run['strategy']:<12}{run['seed']:>5}{run['evaluations']:>7}", end="")
        print(f"{run['final']:>13.3f}{first:>11}{second:>9}", end="")
        held = ", ".join(f"{value:.3f} at {end}" for end, value in run["held_out"].items())
        print(f"{run['seconds_to_choose']:>12.1f}  {held or '-'}")
    print("`to median`, `to best`: evaluations to the published algorithm's final hypervolume")
    print(f"in its median and its best seed (- is never); the aim for quala is {TARGET}.")


if __name__ == "__main__":
    main()
