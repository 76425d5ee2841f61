"""The evaluator of a search: all genes of a generation together, hopeless ones given up early."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from quala.errors import QualaError
from quala.lengths import LengthConfig
from quala.search.racing import Array, Race
from quala.search.scored import Scored
from quala.search.trie import PrefixCache, TrieWalk

if TYPE_CHECKING:
    from quala.data.batch import Batch
    from quala.models.adaptive import LengthAdaptiveModel

Outputs = Mapping[int, Array]


@dataclass(frozen=True, eq=False)
class Chunk:
    """A part of the search slice: all features of some examples, in batches."""

    batches: tuple[Batch, ...]
    examples: tuple[int, ...]


class Scoring(Protocol):
    """Turns logits into scores, 0 to 100."""

    @property
    def additive(self) -> bool:
        """Say whether the score is the mean of the examples' scores."""
        ...

    def examples(self, chunk: Chunk, outputs: Outputs) -> Array:
        """Return the scores of the chunk's examples from the logits of its features."""
        ...

    def total(self, outputs: Outputs) -> float:
        """Return the score from the logits of all features."""
        ...


@dataclass(frozen=True, slots=True)
class EvaluatorSettings:
    """`z` is the certainty of early stopping in standard errors; None scores every gene fully.

    `minimum_examples` are seen before any gene is stopped; `cache_bytes` bound what is kept of
    inputs that nothing was dropped from.
    """

    z: float | None = 3.0
    minimum_examples: int = 32
    cache_bytes: int = 256 * 2**20


@dataclass
class _Runner:
    """A gene under way."""

    lengths: LengthConfig
    cost: float
    scores: Array = field(default_factory=lambda: np.empty(0))
    outputs: dict[int, Array] = field(default_factory=dict)
    stopped: bool = False


class SharedEvaluator:
    """Scores genes over chunks of examples, sharing the work (see `TrieWalk`).

    After each chunk the genes that have lost (see `Race`) are stopped. The full length, the
    genes that were scored before and everything on their front run to the end. A stopped gene's
    score is estimated from its difference to the full length, where that was scored.
    Early stopping needs a score that is a mean over examples; without one no gene is stopped.
    """

    def __init__(
        self,
        model: LengthAdaptiveModel,
        chunks: Sequence[Chunk],
        scoring: Scoring,
        cost: Callable[[LengthConfig], float],
        settings: EvaluatorSettings,
    ) -> None:
        if not chunks:
            raise QualaError("The search needs at least one example, got none.")
        self.cost = cost
        self._model = model
        self._chunks = chunks
        self._scoring = scoring
        self._cache = PrefixCache(settings.cache_bytes)
        self._known: dict[LengthConfig, Scored] = {}
        self._race = self._rule(settings)

    def recall(self, scored: Sequence[Scored]) -> None:
        """Learn earlier scores: they are not computed again, and new genes race against them."""
        self._known.update((outcome.lengths, outcome) for outcome in scored)

    def evaluate(self, configs: Sequence[LengthConfig]) -> list[Scored]:
        """Score genes together; the result has their order."""
        fresh = [gene for gene in dict.fromkeys(configs) if gene not in self._known]
        runners = [_Runner(gene, self.cost(gene)) for gene in fresh]
        self._model.eval()
        with torch.inference_mode():
            for number, chunk in enumerate(self._chunks):
                alive = [runner for runner in runners if not runner.stopped]
                if not alive:
                    break
                self._advance(number, chunk, alive)
                if number + 1 < len(self._chunks):
                    self._stop(alive)
        self._finish(runners)
        return [self._known[gene] for gene in configs]

    def _rule(self, settings: EvaluatorSettings) -> Race | None:
        if settings.z is None or not self._scoring.additive:
            return None
        total = sum(len(chunk.examples) for chunk in self._chunks)
        return Race(settings.z, settings.minimum_examples, total)

    def _advance(self, number: int, chunk: Chunk, alive: Sequence[_Runner]) -> None:
        """Run the alive genes over a chunk and append the scores of its examples."""
        first = sum(len(earlier.batches) for earlier in self._chunks[:number])
        genes = [runner.lengths for runner in alive]
        outputs: list[dict[int, Array]] = [{} for _ in alive]
        for offset, batch in enumerate(chunk.batches):
            walk = TrieWalk(self._model, self._cache, first + offset, batch)
            for members, logits in walk.logits(genes):
                rows = _rows(batch, logits)
                for member in members:
                    outputs[member].update(rows)
        for runner, found in zip(alive, outputs):
            if self._scoring.additive:
                scores = self._scoring.examples(chunk, found)
                runner.scores = np.concatenate([runner.scores, scores])
            else:
                runner.outputs.update(found)

    def _stop(self, alive: Sequence[_Runner]) -> None:
        """Stop the genes that have lost to one that costs no more."""
        if self._race is None:
            return
        seen = len(alive[0].scores)
        known = [rival for rival in self._known.values() if len(rival.examples) >= seen]
        past = [(rival.cost, np.array(rival.examples[:seen])) for rival in known]
        field = past + [(runner.cost, runner.scores) for runner in alive]
        ends = [(r.cost, r.score) for r in self._known.values() if not r.stopped]
        for runner in alive:
            rivals = [scores for cost, scores in field if cost <= runner.cost]
            finished = [score for cost, score in ends if cost <= runner.cost]
            lost = self._race.lost(runner.scores, rivals, finished=finished)
            runner.stopped = lost and any(runner.lengths.drops)

    def _finish(self, runners: Sequence[_Runner]) -> None:
        for runner in runners:
            if not runner.stopped:
                additive = self._scoring.additive
                score = runner.scores.mean() if additive else self._scoring.total(runner.outputs)
                self._record(runner, float(score))
        for runner in runners:
            if runner.stopped:
                self._record(runner, self._estimate(runner))

    def _record(self, runner: _Runner, score: float) -> None:
        examples = tuple(runner.scores.tolist())
        outcome = Scored(runner.lengths, runner.cost, score, runner.stopped, examples)
        self._known[runner.lengths] = outcome

    def _estimate(self, runner: _Runner) -> float:
        seen = runner.scores
        for outcome in self._known.values():
            if not any(outcome.lengths.drops):
                loss = np.array(outcome.examples[: len(seen)]).mean() - seen.mean()
                return max(0.0, float(outcome.score - loss))
        return float(seen.mean())


def _rows(batch: Batch, logits: Tensor) -> dict[int, Array]:
    """Cut padding off: one array per feature, (n_i, 2) for spans, (C,) otherwise."""
    values = logits.float().cpu().numpy()
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    features = batch["feature"].tolist()
    if values.ndim == 2:
        return dict(zip(features, values))
    return {feature: values[i, :n] for i, (feature, n) in enumerate(zip(features, lengths))}
