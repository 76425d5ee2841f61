"""How often the chosen lengths keep the promise of `max_loss`, by size of the slice and certainty.

python benchmarks/choice_certainty.py SEARCH --slices 100,400,750 --certainty 0.5,0.84,0.95

SEARCH is the output folder of a search stage. Half of its examples are held out; lengths are
chosen on random slices of the other half, among the candidates that were scored on all of them.
Prints the mean loss on the held-out half, how often it is above the bound, and the cost, as a
share of the full length's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import optuna
from optuna.storages import InMemoryStorage

from quala.search.evaluate import Array, standard_error
from quala.search.result import SearchCandidate, SearchResult, choose, read_result
from quala.search.sampler import EXAMPLES, STOPPED
from quala.search.scores import SCORES
from quala.search.storage import read_study


def examples_of(folder: Path) -> dict[tuple[int, ...], Array]:
    """Return the scores of every example, by lengths, of candidates that ran to the end."""
    storage = InMemoryStorage()
    read_study(folder / "study", storage)
    study = optuna.load_study(study_name=None, storage=storage)
    file, known = folder / "study" / SCORES, {}
    if file.exists():  # studies of earlier versions have the scores themselves
        lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        known = {tuple(line["lengths"]): line["examples"] for line in lines}
    return {
        (lengths := tuple(map(int, trial.params.values()))): np.array(
            known.get(lengths, trial.user_attrs[EXAMPLES])
        )
        for trial in study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
        if not trial.user_attrs[STOPPED]
    }


def on_slice(found: SearchResult, seen: dict[tuple[int, ...], Array], rows: Array) -> SearchResult:
    """Return the search as it would have been on some of its examples."""
    assert found.full is not None
    full = seen[found.full.lengths.lengths][rows]
    candidates = []
    for one in found.candidates:
        scores = seen.get(one.lengths.lengths)
        if scores is not None:
            mine = scores[rows]
            error = float(standard_error(mine - full))
            candidates.append(
                SearchCandidate(
                    one.lengths, one.cost, mine.mean(), 0, "slice", len(rows), error=error
                )
            )
    return SearchResult(tuple(candidates), found.cheapest, found.dearest)


def main() -> None:
    """Print one line for each size of the slice and certainty."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("search", type=Path)
    parser.add_argument("--slices", default="100,400,750")
    parser.add_argument("--certainty", default="0.5,0.84,0.95")
    parser.add_argument("--max-loss", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=400)
    arguments = parser.parse_args()
    found, seen = read_result(arguments.search), examples_of(arguments.search)
    assert found.full is not None
    full = seen[found.full.lengths.lengths]
    total = len(full)
    print(f"{len(seen)} candidates of {total} examples, half of them held out, seed 0")
    print("| Slice | Certainty | Mean loss | Above the bound | Cost |")
    print("| --- | --- | --- | --- | --- |")
    certainties = [float(one) for one in arguments.certainty.split(",")]
    for size in map(int, arguments.slices.split(",")):
        rng = np.random.default_rng(0)
        losses, costs = np.empty((2, len(certainties), arguments.repeats))
        for repeat in range(arguments.repeats):
            order = rng.permutation(total)
            held, sliced = order[total // 2 :], on_slice(found, seen, order[: total // 2][:size])
            for row, certainty in enumerate(certainties):
                chosen = choose(sliced, max_loss=arguments.max_loss, certainty=certainty)
                losses[row, repeat] = (full - seen[chosen.lengths.lengths])[held].mean()
                costs[row, repeat] = chosen.cost / found.full.cost
        for certainty, lost, cost in zip(certainties, losses, costs):
            above = np.mean(lost > arguments.max_loss)
            told = f"{certainty:g} | {lost.mean():.2f} | {above:.0%} | {cost.mean():.3f}"
            print(f"| {size} | {told} |", flush=True)


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    main()
