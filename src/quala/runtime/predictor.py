"""Run an export: queries to windows, windows to logits, logits to replies.

What the kinds of tasks share. Needs neither torch nor transformers.
"""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from quala.data.features import FeatureSet
from quala.data.tokenize import FastTokenizer
from quala.lengths import LengthConfig
from quala.runtime.card import Card, Layer, Point, Query, Reply
from quala.runtime.engine import Engine, Inputs, Kept
from quala.runtime.prediction import Prediction, TextQuery
from quala.runtime.timing import interleaved, synthetic_inputs

PACE_TOKENS, PACE_RUNS, PACE_WARMUP = 128, 5, 2
"""An input that the export timed too, the runs whose median counts, and those before them that
compile and fill caches. Chosen by hand, not tuned: a fraction of a second at the first budget."""
MOST_TOKENS = 1024
"""Tokens of one call of the engine. Larger calls gain nothing on CPUs, and two windows of 384
tokens took half the time of sixteen, per window (MiniLM, int8, one thread)."""

Q = TypeVar("Q", Query, TextQuery)
R = TypeVar("R", Reply, Prediction)


@dataclass(eq=False, slots=True)
class Work(Generic[Q]):
    """A query as windows, and the logits of those that have run."""

    query: Q
    examples: Sequence[Any]
    features: FeatureSet
    rows: list[int]
    tokens: list[int]
    """Of each window."""
    point: Point
    note: str | None
    seconds: float = 0.0
    """Spent on it, and on what was computed together with it."""
    logits: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    kept: dict[int, dict[int, list[int]]] = field(default_factory=dict)

    @property
    def group(self) -> LengthConfig:
        """Windows of one group run at the same lengths."""
        return self.point.lengths

    def layers(self, count: int, *, pair: bool) -> tuple[Layer, ...]:
        """Return for each of `count` layers the characters whose tokens it kept.

        They are those of the second text for `pair`, else those of the first.
        """
        if not self.query.survivors:
            return ()
        present = {row: list(range(tokens)) for row, tokens in zip(self.rows, self.tokens)}
        layers = []
        for layer in range(count):
            present = {row: self.kept[row].get(layer, present[row]) for row in self.rows}
            spans = {span for row in self.rows for span in self._spans(row, present[row], pair)}
            kept = sum(len(places) for places in present.values())
            layers.append(Layer(kept, sum(self.tokens), tuple(sorted(spans))))
        return tuple(layers)

    def _spans(self, row: int, places: Sequence[int], pair: bool) -> list[tuple[int, int]]:
        """Return the characters of those tokens that have any: special tokens have none."""
        spans, first = self.features.char_spans, int(self.features.segment_one[row])
        assert spans is not None  # features for inference have them
        inside = [int(self.features.offsets[row]) + p for p in places if (p >= first) == pair]
        return [(start, end) for start, end in spans[inside].tolist() if start < end]


class Predictor(ABC, Generic[Q, R]):
    """An export in memory; safe to use from several threads."""

    task: ClassVar[str]
    """The kind of task that it is for."""
    pairs: ClassVar[bool] = False
    """Whether a query may have a second text."""
    source: Path | None = None
    """The folder that it was loaded from."""

    def __init__(self, card: Card, tokenizer: FastTokenizer, engine: Engine) -> None:
        self.facts = card
        self.engine = engine
        self.tokenizer = tokenizer
        added = tokenizer.backend.get_added_tokens_decoder()
        self._special = [place for place, token in added.items() if token.special]
        self._pace: float | None = None
        self._lock = Lock()

    @cached_property
    def card(self) -> Mapping[str, Any]:
        """Return the facts of quala.json."""
        return self.facts.to_json()

    @abstractmethod
    def features(self, queries: Sequence[Q]) -> tuple[Sequence[Any], FeatureSet]:
        """Return the queries as examples, and the windows that the model reads.

        Raises QualaError for text in which the tokenizer finds nothing but special tokens.
        """

    @abstractmethod
    def finish(self, work: Work[Q]) -> R:
        """Return the reply of a query whose windows have all run.

        Raises NotFinite for the logits of a broken model.
        """

    @abstractmethod
    def cut(self, query: Q, example: Any, features: FeatureSet, row: int) -> str | None:
        """Return a sentence about a text that is longer than the model reads."""

    def predict_batch(self, queries: Sequence[Q]) -> list[R]:
        """Return the reply to each of several queries within its own budget, in their order."""
        if not queries:
            return []
        started = time.perf_counter()
        works = self.prepare(queries)
        self.run([(work, window) for work in works for window in range(len(work.rows))])
        replies = [self.finish(work) for work in works]
        milliseconds = 1000 * (time.perf_counter() - started)
        return [replace(reply, milliseconds=milliseconds) for reply in replies]

    def prepare(self, queries: Sequence[Q]) -> list[Work[Q]]:
        """Cut queries into windows and choose a point for each query.

        `run` and `finish` do the rest; the windows may run in any order and with those of others.
        Raises QualaError for input that is refused.
        """
        started = time.perf_counter()
        examples, features = self.features(queries)
        works = [
            self._work(query, examples, features, number) for number, query in enumerate(queries)
        ]
        for work in works:
            work.seconds = time.perf_counter() - started
        return works

    def run(self, windows: Sequence[tuple[Work[Q], int]]) -> None:
        """Run some windows of prepared queries, named by their number within the query."""
        started = time.perf_counter()
        alike: dict[tuple[LengthConfig, int], list[tuple[Work[Q], int]]] = {}
        for work, window in windows:
            alike.setdefault((work.group, work.tokens[window]), []).append((work, window))
        for (lengths, tokens), group in sorted(alike.items(), key=lambda item: -item[0][1]):
            rows = max(1, MOST_TOKENS // tokens)
            for first in range(0, len(group), rows):
                self._run(group[first : first + rows], lengths)
        seconds = time.perf_counter() - started
        for work in {work for work, _ in windows}:
            work.seconds += seconds

    def warm(self) -> None:
        """Compile every point of the front, so that no query has to wait for it."""
        for point in self.facts.front:
            self.engine.logits(self._probe(), point.lengths)
        self.pace()

    def pace(self, known: float | None = None) -> float:
        """Return how many times slower this machine is than the one that exported.

        It is measured once; a `known` one, as of an earlier process, takes its place.
        """
        with self._lock:
            if known is not None:
                self._pace = known
            if self._pace is None:
                self._pace = self._measured_pace()
            return self._pace

    def _measured_pace(self) -> float:
        if not self.facts.timed:
            return 1.0
        probe = self._probe()
        calls = [partial(self.engine.logits, probe, None)] * PACE_RUNS
        (times,) = interleaved([calls], warmup=PACE_WARMUP)
        tokens = probe["input_ids"].shape[1]
        return statistics.median(times) / self.facts.full.milliseconds([tokens])

    def _probe(self) -> Inputs:
        tokens = min(PACE_TOKENS, self.facts.sequence_length)
        return synthetic_inputs([tokens], words=self.facts.arch.vocabulary)

    def _work(
        self, query: Q, examples: Sequence[Any], features: FeatureSet, number: int
    ) -> Work[Q]:
        rows = features.rows_of([number]).tolist()
        tokens = features.lengths[rows].tolist()
        pace = self.pace() if query.budget.ms is not None else 1.0
        point, note = self.facts.choose(query.budget, tokens, pace=pace)
        cut = self.cut(query, examples[number], features, rows[0])
        notes = " ".join(filter(None, [note, cut]))
        return Work(query, examples, features, rows, tokens, point, notes or None)

    def _run(self, group: Sequence[tuple[Work[Q], int]], lengths: LengthConfig) -> None:
        """Run windows of one length in one call of the engine."""
        parts = [work.features.arrays([work.rows[window]]) for work, window in group]
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        kept: Kept = {}
        if any(work.query.survivors for work, _ in group):
            logits, kept = self.engine.survivors(arrays, lengths)
        else:
            logits = self.engine.logits(arrays, lengths)
        for place, (work, window) in enumerate(group):
            row = work.rows[window]
            work.logits[row] = logits[place]
            work.kept[row] = {layer: found[place] for layer, found in kept.items()}
