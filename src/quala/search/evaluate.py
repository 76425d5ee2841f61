"""Scoring lengths together: shared layers, and early stops for those that have lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from quala.checkpoint import cut_out
from quala.errors import QualaError
from quala.lengths import Layers, LengthConfig
from quala.search.strategy import EvaluatedLengths
from quala.search.trie import PrefixCache, TrieWalk

if TYPE_CHECKING:
    from quala.data.features import Batch
    from quala.data.taskdata import Slice, TaskData
    from quala.models.adaptive import LengthAdaptiveModel


Array = NDArray[np.float64]
_FULL_SCORE = 100.0


def standard_error(differences: Array) -> Array:
    """Return the standard error of the mean over the last axis."""
    error: Array = differences.std(axis=-1, ddof=1) / math.sqrt(differences.shape[-1])
    return error


@dataclass(frozen=True, slots=True)
class Race:
    """The rule of early stopping: lengths lose to a rival that costs no more and scores more.

    The rival must lead by `z` standard errors of the mean difference on the same examples, at
    least `minimum` of them. Lengths have also lost to a rival that was scored on all `total`
    examples when the full score on all remaining examples would leave them below it.
    """

    z: float
    minimum: int
    total: int

    def lost(
        self, seen: Array, rivals: Sequence[Array], *, finished: Sequence[float] = ()
    ) -> bool:
        """Return whether lengths with the scores `seen` on the first examples have lost.

        `rivals` are the scores of rivals on at least these examples, `finished` the final scores
        of rivals; no rival costs more.
        """
        count = len(seen)
        reachable = (seen.sum() + _FULL_SCORE * (self.total - count)) / self.total
        if finished and reachable < max(finished):
            return True
        if count < self.minimum or not rivals:
            return False
        apart = seen - np.stack([rival[:count] for rival in rivals])  # (R, count)
        return bool((apart.mean(axis=1) + self.z * standard_error(apart) < 0).any())


@dataclass(frozen=True, slots=True)
class Evaluation(EvaluatedLengths):
    """Evaluated lengths; `examples` are the scores of the examples seen, in their order.

    `stopped` lengths were given up early: their score is an estimate and they are on no front.
    """

    examples: tuple[float, ...] = ()

    def difference_error(self, other: Evaluation) -> float | None:
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
        """Return the cost of lengths (MACs, or milliseconds)."""

    def evaluate(self, configs: Sequence[LengthConfig]) -> list[Evaluation]:
        """Score lengths together, in their order."""

    def recall(self, known: Sequence[Evaluation]) -> None:
        """Take over what was scored before a restart, or by another worker."""


Outputs = Mapping[int, Array]


@dataclass(frozen=True, eq=False)
class Chunk:
    """A part of the search slice: all features of some examples, in batches."""

    batches: tuple[Batch, ...]
    examples: tuple[int, ...]


@dataclass(frozen=True)
class TaskScoring:
    """Scores logits by the primary metric of a task's slice, 0 to 100."""

    data: TaskData
    part: Slice

    @property
    def additive(self) -> bool:
        """Return whether the score is the mean of the examples' scores."""
        return self.data.task.additive

    def examples(self, outputs: Outputs) -> Array:
        """Return the score of each example, from the logits of all its features."""
        rows = sorted(outputs)
        return self.data.example_scores(self.part, [outputs[row] for row in rows], rows)

    def total(self, outputs: Outputs) -> float:
        """Return the score from the logits of all features."""
        metrics = self.data.score(self.part, [outputs[row] for row in sorted(outputs)])
        return float(metrics[self.data.task.metric])


@dataclass
class _Runner:
    """Lengths that are being scored."""

    lengths: LengthConfig
    cost: float
    scores: Array = field(default_factory=lambda: np.empty(0))
    outputs: dict[int, Array] = field(default_factory=dict)
    stopped: bool = False


@dataclass
class Part:
    """A sub-network as a model of its own, cut out when it is first asked for."""

    layers: Layers
    whole: LengthAdaptiveModel
    cache: PrefixCache

    @cached_property
    def model(self) -> LengthAdaptiveModel:
        """The model in evaluation mode."""
        return cut_out(self.whole, self.layers).eval()

    def walk(self, number: int, batch: Batch) -> TrieWalk:
        """Return the walk over a batch of this number."""
        return TrieWalk(self.model, self.cache, number, batch)


class SharedEvaluator:
    """Scores lengths over chunks of examples, sharing the work (see `TrieWalk`).

    After each chunk the lengths that have lost (see `Race`) are stopped. The full length is
    never stopped. A stopped score is estimated by the difference to the full length on the
    examples seen, where the full length was scored. `patience` is the certainty of a stop in
    standard errors; None scores all lengths fully, and so does a score that is no mean over
    examples. `cache_bytes` bounds what is kept of inputs from which nothing was dropped.
    """

    minimum_examples = 32
    """Seen before any lengths are stopped: a standard error needs a sample; chosen by hand."""

    def __init__(
        self,
        model: LengthAdaptiveModel,
        chunks: Sequence[Chunk],
        scoring: TaskScoring,
        cost: Callable[[LengthConfig], float],
        *,
        patience: float | None,
        cache_bytes: int,
    ) -> None:
        if not chunks:
            raise QualaError("The search needs at least one example, got none.")
        self.cost = cost
        self._chunks = chunks
        self._scoring = scoring
        structures = [(), *model.structures[1:]]
        self._parts = {
            layers: Part(layers, model, PrefixCache(cache_bytes // len(structures)))
            for layers in structures
        }
        self._known: dict[LengthConfig, Evaluation] = {}
        self._race: Race | None = None
        if patience is not None and scoring.additive:
            total = sum(len(chunk.examples) for chunk in chunks)
            self._race = Race(patience, self.minimum_examples, total)

    def recall(self, known: Sequence[Evaluation]) -> None:
        """Take over earlier scores: they are not computed again and may stop new lengths."""
        self._known.update((one.lengths, one) for one in known)

    def evaluate(self, configs: Sequence[LengthConfig]) -> list[Evaluation]:
        """Score lengths together; the result has their order."""
        fresh = [lengths for lengths in dict.fromkeys(configs) if lengths not in self._known]
        runners = [_Runner(lengths, self.cost(lengths)) for lengths in fresh]
        with torch.inference_mode():
            for number, chunk in enumerate(self._chunks):
                alive = [runner for runner in runners if not runner.stopped]
                if not alive:
                    break
                self._advance(number, chunk, alive)
                if number + 1 < len(self._chunks):
                    self._stop(alive)
        self._finish(runners)
        return [self._known[lengths] for lengths in configs]

    def _advance(self, number: int, chunk: Chunk, alive: Sequence[_Runner]) -> None:
        """Run the lengths that are not stopped over a chunk and add the scores of its examples."""
        first = sum(len(earlier.batches) for earlier in self._chunks[:number])
        outputs: list[dict[int, Array]] = [{} for _ in alive]
        for layers, part in self._parts.items():
            own = [place for place, one in enumerate(alive) if one.lengths.layers == layers]
            candidates = [alive[place].lengths.extracted for place in own]
            for offset, batch in enumerate(chunk.batches if own else ()):
                features = batch["feature"].tolist()
                tokens = batch["attention_mask"].sum(dim=1).tolist()
                for members, logits in part.walk(first + offset, batch).logits(candidates):
                    values = logits.float().cpu().numpy()
                    cut = map(part.model.task.cut, values, tokens)
                    rows = dict(zip(features, cut, strict=True))
                    for member in members:
                        outputs[own[member]].update(rows)
        for runner, found in zip(alive, outputs):
            if self._scoring.additive:
                scores = self._scoring.examples(found)
                runner.scores = np.concatenate([runner.scores, scores])
            else:
                runner.outputs.update(found)

    def _stop(self, alive: Sequence[_Runner]) -> None:
        """Stop the lengths that have lost to others that cost no more."""
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
            runner.stopped = lost and not runner.lengths.is_full

    def _finish(self, runners: Sequence[_Runner]) -> None:
        """Record the scores; stopped lengths are the last, because they need the full length's."""
        for runner in sorted(runners, key=lambda runner: runner.stopped):
            if runner.stopped:
                score = self._estimate(runner.scores)
            elif self._scoring.additive:
                score = float(runner.scores.mean())
            else:
                score = self._scoring.total(runner.outputs)
            self._known[runner.lengths] = Evaluation(
                runner.lengths, runner.cost, score, runner.stopped, tuple(runner.scores.tolist())
            )

    def _estimate(self, seen: Array) -> float:
        for known in self._known.values():
            if known.lengths.is_full:
                loss = np.array(known.examples[: len(seen)]).mean() - seen.mean()
                return max(0.0, float(known.score - loss))
        return float(seen.mean())


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
    features, order = part.features, list(range(len(part.examples)))
    Random(seed).shuffle(order)
    chunks = []
    for first in range(0, len(order), examples):
        chosen = sorted(order[first : first + examples])
        rows = features.rows_of(chosen)
        rows = rows[np.argsort(features.lengths[rows], kind="stable")]
        batches = tuple(
            features.batch(rows[start : start + batch_size].tolist(), pad_to=pad_to)
            for start in range(0, len(rows), batch_size)
        )
        chunks.append(Chunk(batches, tuple(chosen)))
    return chunks
