"""Bayesian optimization, as Dynamic-TinyBERT finds its lengths (arXiv 2111.09645).

Optuna's tree-structured Parzen estimator models the density of the best tenth of the lengths, by
score and cost together, and the density of the others. It proposes lengths where the ratio of
the two is largest.
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
from quala.search.strategy import Acceptance, EvaluatedLengths, Proposal, SearchSettings, distinct

_TRIES = 16
_DRAWS = 2000
"""Proposals of the estimator, then random draws, before a generation ends; chosen by hand."""


@dataclass(frozen=True, slots=True)
class Bayesian:
    """Proposes the lengths that Optuna's estimator asks for, given all that is known.

    A proposal depends on the known lengths and the random generator alone: each one is asked of
    a new study. No layer keeps less than the cheapest lengths do at their last layer. The first
    `population` lengths are random. Those accepted earlier in a generation count as running
    trials, which the estimator keeps away from. Lengths that were stopped, cost too much or
    score below `min_score` are infeasible.
    """

    space: Space
    accept: Acceptance
    settings: SearchSettings

    def seeds(self) -> tuple[LengthConfig, ...]:
        """Return both ends."""
        return distinct([self.space.full, self.space.lowest])

    def parents(self, known: Sequence[EvaluatedLengths]) -> list[EvaluatedLengths]:
        """Return everything known: the estimator also needs the bad lengths."""
        return list(known)

    def propose(
        self,
        rng: Random,
        *,
        parents: Sequence[EvaluatedLengths],
        accepted: Sequence[LengthConfig],
        seen: AbstractSet[LengthConfig],
    ) -> Proposal | None:
        """Return what the estimator asks for, or random lengths when that is never new."""
        # The estimator chooses each layer's length from this space.
        box = replace(self.space, floor=self.space.shortest.lengths[-1], lower=None)
        study = self._study(box, parents, accepted, rng)
        for _ in range(_TRIES):
            trial = study.ask(box.distributions())
            falling = sorted((trial.params[name] for name in box.names), reverse=True)
            ordered = trial.params | dict(zip(box.names, falling, strict=True))
            wanted = box.from_params(ordered)
            assert wanted is not None  # it was asked with all parameters
            asked = box.repair(wanted.lengths, wanted.layers)
            if self.accept(asked, seen):
                return Proposal(asked, "bayesian")
            study.tell(trial, state=TrialState.FAIL)
        draws = (box.draw(rng) for _ in range(_DRAWS))
        drawn = next((lengths for lengths in draws if self.accept(lengths, seen)), None)
        return None if drawn is None else Proposal(drawn, "bayesian")

    def _study(
        self,
        box: Space,
        parents: Sequence[EvaluatedLengths],
        accepted: Sequence[LengthConfig],
        rng: Random,
    ) -> optuna.Study:
        # Both ends are no random sample of the space: they do not count as the random start.
        startup = self.settings.population + 2
        sampler = TPESampler(seed=rng.getrandbits(32), n_startup_trials=startup)
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        study.add_trials([self._trial(box, known) for known in parents])
        for lengths in accepted:
            study.add_trial(
                create_trial(
                    state=TrialState.RUNNING,
                    params=box.to_params(lengths),
                    distributions=box.distributions(),
                )
            )
        return study

    def _trial(self, box: Space, known: EvaluatedLengths) -> FrozenTrial:
        limits = {"stopped": float(known.stopped), "cost": known.cost - self.accept.dearest}
        if self.settings.min_score is not None:
            limits["score"] = self.settings.min_score - known.score
        return create_trial(
            params=box.to_params(known.lengths),
            distributions=box.distributions(),
            values=[known.score, known.cost],
            constraints=limits,
        )
