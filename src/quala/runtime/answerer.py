"""Answer questions with an export, and load exports of all kinds.

Needs neither torch nor transformers.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from quala.data.decode import Answer, decode_answers, null_differences, null_probability
from quala.data.features import FeatureSet, QAExample
from quala.data.task import Span
from quala.data.tokenize import FastTokenizer, qa_features
from quala.errors import QualaError
from quala.runtime.card import Budget, Card, Query, Reply, model_folder, shipped
from quala.runtime.engine import open_export
from quala.runtime.hardware import check_threads
from quala.runtime.hub import download, is_hub_name
from quala.runtime.predictor import Predictor, Work
from quala.runtime.texts import TEXT_PREDICTORS, TextPredictor


class QuestionAnswerer(Predictor[Query, Reply]):
    """A question-answering export in memory; safe to use from several threads."""

    task = Span.kind

    def answer(
        self,
        question: str,
        context: str,
        *,
        budget_ms: float | None = None,
        budget_macs: float | None = None,
        keep: float | None = None,
        lengths: Sequence[int] | None = None,
        layers: str | None = None,
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
            layers=layers,
            strict=strict,
        )
        query = Query(question=question, context=context, budget=budget, top_k=top_k)
        return self.answer_batch([query])[0]

    def answer_batch(self, queries: Sequence[Query]) -> list[Reply]:
        """Answer several queries, each within its own budget, in their order."""
        return self.predict_batch(queries)

    def finish(self, work: Work[Query]) -> Reply:
        started = time.perf_counter()
        answers, no_answer = self._answers(work)
        return Reply(
            answers=tuple(answers),
            no_answer=no_answer,
            lengths=work.point.lengths.lengths,
            windows=len(work.rows),
            milliseconds=1000 * (work.seconds + time.perf_counter() - started),
            note=work.note,
            layers=work.layers(self.facts.arch.layers, pair=True),
            units=work.point.units,
        )

    def features(self, queries: Sequence[Query]) -> tuple[list[QAExample], FeatureSet]:
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

    def cut(self, query: Query, example: Any, features: FeatureSet, row: int) -> str | None:
        most = self.facts.max_question_length
        assert features.context_range is not None
        if features.context_range[row, 0] < most:  # what stands before the context
            return None
        ((ids, _),) = self.tokenizer.pieces([query.question.lstrip()])
        if len(ids) <= most:
            return None
        return f"The question has {len(ids)} tokens, of which the model reads the first {most}."

    def _answers(self, work: Work[Query]) -> tuple[list[Answer], float | None]:
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


_EVERY: tuple[type[QuestionAnswerer | TextPredictor], ...] = (QuestionAnswerer, *TEXT_PREDICTORS)
PREDICTORS = {each.task: each for each in _EVERY}
"""What runs exports, by the kind of their task."""


def load(
    model: str | Path, *, runtime: str = "onnxruntime", threads: int = 1
) -> QuestionAnswerer | TextPredictor:
    """Load an exported folder, `owner/name` on the hub, or a model that comes with quala.

    The task of the export decides what comes back: a `QuestionAnswerer`, `Classifier`,
    `Regressor`, `Tagger` or `Embedder`. A folder wins over such a name, with a warning; `./NAME`
    and a `Path` name folders. A model on the hub is downloaded once; `owner/name@revision` names
    one of its versions. Raises QualaError for a folder that is no export, is truncated or has a
    task without a predictor, for an unknown runtime and for too few or too many threads.
    """
    check_threads(threads)
    folder = model_folder(model, partial(warnings.warn, stacklevel=3))
    if folder is None and isinstance(model, str) and is_hub_name(model):
        folder = download(model)
    if folder is None:
        names = ", ".join(shipped()) or "none"
        raise QualaError(f"`{model}` is no folder; models that come with quala: {names}.")
    card = Card.read(folder)
    if card.task not in PREDICTORS:
        raise QualaError(
            f"`{model}` has the task {card.task}, for which quala has no predictor; it has some "
            f"for {', '.join(PREDICTORS)}. `quala.runtime.engine.open_export` gives its logits."
        )
    tokenizer = FastTokenizer.read(folder, words=card.arch.vocabulary)
    engine = open_export(folder, card, runtime=runtime, threads=threads)
    found = PREDICTORS[card.task](card, tokenizer, engine)
    found.source = folder
    return found


def load_answerer(
    model: str | Path, *, runtime: str = "onnxruntime", threads: int = 1
) -> QuestionAnswerer:
    """Load an export as `load` does. Raises QualaError also for one of another task."""
    found = load(model, runtime=runtime, threads=threads)
    if not isinstance(found, QuestionAnswerer):
        raise QualaError(
            f"`{model}` is not for question answering, its task is {found.task}: use "
            "`quala predict`, or `predict` of what `quala.load` returns."
        )
    return found
