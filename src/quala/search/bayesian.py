"""Bayesian optimization, as Dynamic-TinyBERT finds its lengths (arXiv 2111.09645).

Optuna's tree-structured Parzen estimator does the work: it models where the best tenth of the
lengths lies, by score and cost together, and where the others lie, and asks for what is likeliest
in the first and least likely in the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from random import Random

import optuna
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from quala.lengths import LengthConfig
from quala.search.space import Space
from quala.search.strategy import Acceptance, Known, Proposal, distinct

_TRIES = 16
_DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Bayesian:
    """Proposes what Optuna's estimator asks for, given all that is known.

    A proposal is a function of the known genes and the generator alone: the study that it is
    asked of is made anew each time. No layer keeps less than the cheapest gene does at its last.
    The first `startup` genes are random; the genes accepted earlier in a generation count as
    running trials, which the estimator keeps away from. Genes that were stopped, that cost too
    much or score below `min_score` are infeasible to it.
    """

    space: Space
    accept: Acceptance
    startup: int = 10
    generation_size: int = 1
    min_score: float | None = None

    def seeds(self) -> tuple[LengthConfig, ...]:
        """Return both ends."""
        return distinct([self.space.full, self.space.lowest])

    def parents(self, known: Sequence[Known]) -> list[Known]:
        """Return everything known: the estimator learns from the bad genes too."""
        return list(known)

    def propose(
        self,
        rng: Random,
        *,
        parents: Sequence[Known],
        accepted: Sequence[LengthConfig],
        seen: AbstractSet[LengthConfig],
    ) -> Proposal | None:
        """Return what the estimator asks for, or a random gene when it has nothing new."""
        box = self._box()
        study = self._study(box, parents, accepted, rng)
        for _ in range(_TRIES):
            trial = study.ask(box.distributions())
            gene = box.repair(sorted(trial.params.values(), reverse=True))
            if self.accept(gene, seen):
                return Proposal(gene, "bayesian")
            study.tell(trial, state=TrialState.FAIL)
        draws = (box.draw(rng) for _ in range(_DRAWS))
        drawn = next((gene for gene in draws if self.accept(gene, seen)), None)
        return None if drawn is None else Proposal(drawn, "bayesian")

    def _box(self) -> Space:
        """Return the lengths that the estimator chooses each layer's from."""
        return replace(self.space, floor=self.space.lowest.lengths[-1], lower=None)

    def _study(
        self, box: Space, parents: Sequence[Known], accepted: Sequence[LengthConfig], rng: Random
    ) -> optuna.Study:
        # both ends are no sample of the space and do not count as the random start
        sampler = TPESampler(seed=rng.getrandbits(32), n_startup_trials=self.startup + 2)
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        study.add_trials([self._trial(box, known) for known in parents])
        study.add_trials([self._running(box, gene) for gene in accepted])
        return study

    def _trial(self, box: Space, known: Known) -> FrozenTrial:
        limits = {"stopped": float(known.stopped), "cost": known.cost - self.accept.dearest}
        if self.min_score is not None:
            limits["score"] = self.min_score - known.score
        return create_trial(
            params=box.to_params(known.lengths),
            distributions=box.distributions(),
            values=[known.score, known.cost],
            constraints=limits,
        )

    def _running(self, box: Space, gene: LengthConfig) -> FrozenTrial:
        return create_trial(
            state=TrialState.RUNNING,
            params=box.to_params(gene),
            distributions=box.distributions(),
        )
