"""The search for length configurations: high scores at low costs.

`run_search` runs a resumable search and returns a `SearchResult` with its Pareto front. A
`Strategy` proposes lengths: `Published` is the evolutionary search of LAT, `Guided` adds a model
of the scores, `Bayesian` is Optuna's estimator. An `Evaluator` scores them. `EvolutionarySampler`
is for any other Optuna study.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quala._lazy import lazy

if TYPE_CHECKING:
    from quala.search.bayesian import Bayesian
    from quala.search.evaluate import Evaluator
    from quala.search.evolutionary import EvolutionarySampler
    from quala.search.guided import Guided
    from quala.search.published import Published
    from quala.search.result import SearchResult
    from quala.search.space import Space
    from quala.search.strategy import EvaluatedLengths, Proposal, SearchSettings, Strategy
    from quala.search.study import run_search

__all__ = [
    "Bayesian", "EvaluatedLengths", "Evaluator", "EvolutionarySampler", "Guided", "Proposal",
    "Published", "SearchResult", "SearchSettings", "Space", "Strategy", "run_search",
]  # fmt: skip

__getattr__ = lazy(
    __name__,
    {
        "quala.search.bayesian": ["Bayesian"],
        "quala.search.evaluate": ["Evaluator"],
        "quala.search.evolutionary": ["EvolutionarySampler"],
        "quala.search.guided": ["Guided"],
        "quala.search.published": ["Published"],
        "quala.search.result": ["SearchResult"],
        "quala.search.space": ["Space"],
        "quala.search.strategy": ["EvaluatedLengths", "Proposal", "SearchSettings", "Strategy"],
        "quala.search.study": ["run_search"],
    },
)
