"""Answer questions with an export: text to windows, to logits, to answers.

Needs neither torch nor transformers.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quala.data.decode import Answer, decode_answers, null_differences, null_probability
from quala.data.features import FeatureSet, QAExample
from quala.data.task import Span
from quala.data.tokenize import FastTokenizer, qa_features
from quala.errors import QualaError
from quala.lengths import LengthConfig
from quala.runtime.card import Budget, Card, Layer, Point, Query, Reply, model_folder, shipped
from quala.runtime.engine import Engine, Inputs, Kept, open_export
from quala.runtime.hardware import check_threads
from quala.runtime.timing import interleaved, synthetic_inputs

PACE_TOKENS, PACE_RUNS, PACE_WARMUP = 128, 5, 2
"""An input that the export timed too, the runs whose median counts, and those before them that
compile and fill caches. Chosen by hand, not tuned: a fraction of a second at the first budget."""
MOST_TOKENS = 1024
"""Tokens of one call of the engine. Larger calls gain nothing on CPUs, and two windows of 384
tokens took half the time of sixteen, per window (MiniLM, int8, one thread)."""


@dataclass(eq=False, slots=True)
class Work:
    """A query as windows, and the logits of those that have run."""

    query: Query
    examples: Sequence[QAExample]
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


class QuestionAnswerer:
    """A question-answering export in memory; safe to use from several threads."""

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

    def answer(
        self,
        question: str,
        context: str,
        *,
        budget_ms: float | None = None,
        budget_macs: float | None = None,
        keep: float | None = None,
        lengths: Sequence[int] | None = None,
        strict: bool = False,
        top_k: int = 1,
    ) -> Reply:
        """Answer one question about one context within at most one kind of budget.

        Long contexts are cut into windows, and a budget holds for all of them together. Of a
        longer question the first `max_question_length` tokens are read, and the reply says so.
        `top_k` is at most 100. Raises QualaError for text without words, for a budget that cannot
        be one, and under `strict` for one below the cheapest point.
        """
        budget = Budget(
            ms=budget_ms,
            macs=budget_macs,
            keep=keep,
            lengths=lengths,
            strict=strict,
        )
        query = Query(question=question, context=context, budget=budget, top_k=top_k)
        return self.answer_batch([query])[0]

    def answer_batch(self, queries: Sequence[Query]) -> list[Reply]:
        """Answer several queries, each within its own budget, in their order."""
        if not queries:
            return []
        started = time.perf_counter()
        works = self.prepare(queries)
        self.run([(work, window) for work in works for window in range(len(work.rows))])
        replies = [self.finish(work) for work in works]
        milliseconds = 1000 * (time.perf_counter() - started)
        return [replace(reply, milliseconds=milliseconds) for reply in replies]

    def prepare(self, queries: Sequence[Query]) -> list[Work]:
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

    def run(self, windows: Sequence[tuple[Work, int]]) -> None:
        """Run some windows of prepared queries, named by their number within the query."""
        started = time.perf_counter()
        alike: dict[tuple[LengthConfig, int], list[tuple[Work, int]]] = {}
        for work, window in windows:
            alike.setdefault((work.group, work.tokens[window]), []).append((work, window))
        for (lengths, tokens), group in sorted(alike.items(), key=lambda item: -item[0][1]):
            rows = max(1, MOST_TOKENS // tokens)
            for first in range(0, len(group), rows):
                self._run(group[first : first + rows], lengths)
        seconds = time.perf_counter() - started
        for work in {work for work, _ in windows}:
            work.seconds += seconds

    def finish(self, work: Work) -> Reply:
        """Return the reply of a query whose windows have all run.

        Raises NotFinite for the logits of a broken model.
        """
        started = time.perf_counter()
        (answers, no_answer), layers = self._answers(work), self._layers(work)
        return Reply(
            answers=tuple(answers),
            no_answer=no_answer,
            lengths=work.point.lengths.lengths,
            windows=len(work.rows),
            milliseconds=1000 * (work.seconds + time.perf_counter() - started),
            note=work.note,
            layers=layers,
        )

    def features(self, queries: Sequence[Query]) -> tuple[list[QAExample], FeatureSet]:
        """Return the queries as examples, and the windows that the model reads.

        Raises QualaError for text in which the tokenizer finds nothing but special tokens.
        """
        examples = [
            QAExample(str(number), "", query.context, query.question)
            for number, query in enumerate(queries)
        ]
        features = qa_features(examples, self.tokenizer, self.facts.windows)
        assert features.context_range is not None  # features of question answering
        words = np.cumsum(np.append(False, ~np.isin(features.input_ids, self._special)))
        starts = features.offsets[:-1, None]
        edges = np.concatenate((starts, starts + features.context_range), axis=1)
        for name, counts in zip(("question", "context"), np.diff(words[edges]).T, strict=True):
            if not np.bincount(features.example, counts).all():
                raise QualaError(f"The tokenizer finds no words in the {name}.")
        return examples, features

    def warm(self) -> None:
        """Compile every point of the front, so that no question has to wait for it."""
        for point in self.facts.front:
            self.engine.logits(self._probe(), point.lengths)
        self.pace()

    def pace(self) -> float:
        """Return how many times slower this machine is than the one that exported."""
        with self._lock:
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
        return synthetic_inputs([min(PACE_TOKENS, self.facts.sequence_length)])

    def _work(
        self, query: Query, examples: Sequence[QAExample], features: FeatureSet, number: int
    ) -> Work:
        rows = features.rows_of([number]).tolist()
        tokens = features.lengths[rows].tolist()
        pace = self.pace() if query.budget.ms is not None else 1.0
        point, note = self.facts.choose(query.budget, tokens, pace=pace)
        notes = " ".join(filter(None, [note, self._cut(query.question, features, rows[0])]))
        return Work(query, examples, features, rows, tokens, point, notes or None)

    def _cut(self, question: str, features: FeatureSet, row: int) -> str | None:
        """Return a sentence about a question that is longer than the model reads."""
        most = self.facts.max_question_length
        assert features.context_range is not None
        if features.context_range[row, 0] < most:  # what stands before the context
            return None
        ((ids, _),) = self.tokenizer.pieces([question.lstrip()])
        if len(ids) <= most:
            return None
        return f"The question has {len(ids)} tokens, of which the model reads the first {most}."

    def _run(self, group: Sequence[tuple[Work, int]], lengths: LengthConfig) -> None:
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

    def _answers(self, work: Work) -> tuple[list[Answer], float | None]:
        """Return the answers to a query, and the probability that there is none, where known."""
        outputs = [work.logits[row] for row in work.rows]
        decoding = self.facts.decoding
        decoding = replace(decoding, n_best=max(decoding.n_best, work.query.top_k))
        found = decode_answers(
            work.examples, work.features, outputs, decoding=decoding, rows=work.rows
        )
        (answers,) = found.values()
        answers, threshold = answers[: work.query.top_k], self.facts.null_threshold
        if threshold is None:
            return answers, None
        (ahead,) = null_differences(work.features, outputs, found, rows=work.rows).values()
        return [] if ahead > threshold else answers, null_probability(ahead, threshold)

    def _layers(self, work: Work) -> tuple[Layer, ...]:
        """Return for each layer the characters of the context whose tokens it kept."""
        if not work.query.survivors:
            return ()
        present = {row: list(range(count)) for row, count in zip(work.rows, work.tokens)}
        layers = []
        for layer in range(self.facts.arch.layers):
            present = {row: work.kept[row].get(layer, present[row]) for row in work.rows}
            spans = {
                span for row in work.rows for span in _characters(work.features, row, present[row])
            }
            kept = sum(len(places) for places in present.values())
            layers.append(Layer(kept, sum(work.tokens), tuple(sorted(spans))))
        return tuple(layers)


def _characters(features: FeatureSet, row: int, places: Sequence[int]) -> list[tuple[int, int]]:
    ranges, spans = features.context_range, features.char_spans
    assert ranges is not None  # features of question answering
    assert spans is not None
    first, last = map(int, ranges[row])
    base = int(features.offsets[row])
    inside = [base + place for place in places if first <= place < last]
    return [(int(start), int(end)) for start, end in spans[inside].tolist()]


def load(model: str | Path, *, runtime: str = "onnxruntime", threads: int = 1) -> QuestionAnswerer:
    """Load an exported folder, or a model that comes with quala by its name.

    A folder wins over such a name, with a warning; `./NAME` and a `Path` name folders. Raises
    QualaError for a folder that is no export, is truncated or has another task, for an unknown
    runtime and for too few or too many threads.
    """
    check_threads(threads)
    folder = model_folder(model, partial(warnings.warn, stacklevel=3))
    if folder is None:
        names = ", ".join(shipped()) or "none"
        raise QualaError(f"`{model}` is no folder; models that come with quala: {names}.")
    card = Card.read(folder)
    if card.task != Span.kind:
        raise QualaError(f"`{model}` is not for question answering: its task is {card.task}.")
    tokenizer = FastTokenizer.read(folder, words=card.arch.vocabulary)
    engine = open_export(folder, card, runtime=runtime, threads=threads)
    return QuestionAnswerer(card, tokenizer, engine)
