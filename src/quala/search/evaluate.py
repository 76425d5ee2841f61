"""When a gene may be given up before all examples have been seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quala.errors import QualaError
from quala.lengths import LengthConfig
from quala.search.result import Candidate
from quala.search.trie import PrefixCache, TrieWalk

if TYPE_CHECKING:
    from quala.data.features import Batch
    from quala.data.taskdata import Slice, TaskData
    from quala.models.adaptive import LengthAdaptiveModel


Array = NDArray[np.float64]


def standard_error(differences: Array) -> Array:
    """Return the standard error of the mean over the last axis."""
    error: Array = differences.std(axis=-1, ddof=1) / math.sqrt(differences.shape[-1])
    return error


@dataclass(frozen=True, slots=True)
class Race:
    """The rule: a gene that costs no less than a rival and is surely worse has lost.

    `z` standard errors of the mean difference on the same examples count as sure; with fewer
    than `minimum` examples nothing does. Against a rival scored on all `total` examples, a gene
    has lost for certain when `highest` on all that remain would not lift it to the rival.
    """

    z: float
    minimum: int
    total: int
    highest: float = 100.0

    def lost(
        self, seen: Array, rivals: Sequence[Array], *, finished: Sequence[float] = ()
    ) -> bool:
        """Say whether a gene has lost.

        `seen` are its scores on the first examples, `rivals` the scores of no dearer genes on at
        least these examples, `finished` the final scores of no dearer genes.
        """
        count = len(seen)
        reachable = (seen.sum() + self.highest * (self.total - count)) / self.total
        if finished and reachable < max(finished):
            return True
        if count < self.minimum or not rivals:
            return False
        apart = seen - np.stack([rival[:count] for rival in rivals])  # (R, count)
        return bool((apart.mean(axis=1) + self.z * standard_error(apart) < 0).any())


@dataclass(frozen=True, slots=True)
class Scored:
    """A gene with its score; `examples` are the scores of the examples seen, in their order.

    A `stopped` gene was given up early: its score is an estimate and it is on no front.
    """

    lengths: LengthConfig
    cost: float
    score: float
    stopped: bool = False
    examples: tuple[float, ...] = ()

    def difference_error(self, other: Scored) -> float | None:
        """Return the standard error of the difference of two scores on the same examples.

        None where fewer than two were seen.
        """
        count = min(len(self.examples), len(other.examples))
        if count < 2:
            return None
        apart = np.subtract(self.examples[:count], other.examples[:count])
        return float(standard_error(apart))


class Evaluator(Protocol):
    """Scores length configurations. The cost is known before the score."""

    def cost(self, lengths: LengthConfig) -> float:
        """Return the cost of a gene (MACs, or milliseconds)."""
        ...

    def evaluate(self, configs: Sequence[LengthConfig]) -> list[Scored]:
        """Score genes together."""
        ...

    def recall(self, scored: Sequence[Scored]) -> None:
        """Learn what was scored before a restart, or by another worker."""
        ...


EvaluatorFactory = Callable[[], Evaluator]
OnCandidate = Callable[[Candidate], None]


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


def cut_chunks(
    part: Slice, *, examples: int, batch_size: int, seed: int, pad_to: int | None = None
) -> list[Chunk]:
    """Shuffle the examples of a slice and cut them into chunks of `examples`.

    All features of an example come in one chunk; a chunk's batches are made by length. Raises
    QualaError for sizes below 1.
    """
    if examples < 1 or batch_size < 1:
        raise QualaError(
            f"`examples` and `batch_size` must be positive, got {examples} and {batch_size}."
        )
    order = list(range(len(part.examples)))
    Random(seed).shuffle(order)
    cuts = [sorted(order[start : start + examples]) for start in range(0, len(order), examples)]
    return [_chunk(part, cut, batch_size=batch_size, pad_to=pad_to) for cut in cuts]


def _chunk(part: Slice, examples: list[int], *, batch_size: int, pad_to: int | None) -> Chunk:
    features = part.features
    rows = features.rows_of(examples)
    rows = rows[np.argsort(features.lengths[rows], kind="stable")]
    batches = [
        features.batch(rows[start : start + batch_size].tolist(), pad_to=pad_to)
        for start in range(0, len(rows), batch_size)
    ]
    return Chunk(tuple(batches), tuple(examples))


@dataclass(frozen=True)
class TaskScoring:
    """Scores by the primary metric of a task's slice."""

    data: TaskData
    part: Slice

    @property
    def additive(self) -> bool:
        """Say whether the metric is a mean over examples."""
        return self.data.task.additive

    def examples(self, chunk: Chunk, outputs: Outputs) -> Array:
        """Return the metric of each example of the chunk."""
        rows = sorted(outputs)
        return self.data.example_scores(self.part, [outputs[row] for row in rows], rows)

    def total(self, outputs: Outputs) -> float:
        """Return the metric over the slice."""
        metrics = self.data.score(self.part, [outputs[row] for row in sorted(outputs)])
        return float(metrics[self.data.task.metric])
