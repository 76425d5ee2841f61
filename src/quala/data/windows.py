"""Questions and contexts as sliding windows, with the answer's tokens as labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from quala.data.examples import QAExample
from quala.data.features import FeatureSet
from quala.data.spec import DataSpec
from quala.data.tokenize import (
    Ids,
    PairLayout,
    bare_ids,
    bare_ids_and_spans,
    check_tokenizer,
    pair_layout,
)
from quala.errors import QualaError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class _Pair:
    """One question and its context as tokens."""

    example: int
    question: Ids
    context: Ids
    spans: Ids  # (context tokens, 2)
    answer: tuple[int, int]  # first and last context token, (-1, -1) for none


@dataclass(slots=True)
class _Columns:
    """The growing columns of a FeatureSet."""

    layout: PairLayout
    ids: list[Ids] = field(default_factory=list)
    spans: list[Ids] = field(default_factory=list)
    segment_one: list[int] = field(default_factory=list)
    example: list[int] = field(default_factory=list)
    context_range: list[tuple[int, int]] = field(default_factory=list)
    labels: list[tuple[int, int]] = field(default_factory=list)

    def add(self, pair: _Pair, start: int, stop: int) -> None:
        """Append the window of the context tokens `start` to `stop`."""
        layout = self.layout
        head = len(layout.before) + len(pair.question) + len(layout.between)
        window = pair.context[start:stop]
        ids = np.concatenate((layout.before, pair.question, layout.between, window, layout.after))
        spans = np.zeros((len(ids), 2), dtype=np.int32)
        spans[head : head + stop - start] = pair.spans[start:stop]
        first, last = pair.answer
        inside = start <= first and last < stop
        self.ids.append(ids)
        self.spans.append(spans)
        # the first separator closes the question, a second one opens the context
        self.segment_one.append(head - max(0, len(layout.between) - 1))
        self.example.append(pair.example)
        self.context_range.append((head, head + stop - start))
        self.labels.append((first - start + head, last - start + head) if inside else (0, 0))


def qa_features(
    examples: Sequence[QAExample], tokenizer: PreTrainedTokenizerBase, spec: DataSpec
) -> FeatureSet:
    """Cut every question and its context into windows of at most `max_length` tokens.

    Equal to a tokenizer call with `truncation="only_second"`, `stride=doc_stride` and overflow,
    but each context is tokenised once however many questions it has. A window without the
    whole (first) answer is labelled with token 0. Labels are absent when any example has no
    answer. Raises QualaError when the special tokens leave no room for windows.
    """
    check_tokenizer(tokenizer)
    columns = _Columns(pair_layout(tokenizer))
    for pair in _pairs(examples, tokenizer, max_question_length=spec.max_question_length):
        room = spec.max_length - columns.layout.size - len(pair.question)
        if room <= spec.doc_stride:
            raise QualaError(
                f"`doc_stride` {spec.doc_stride} leaves no new tokens in windows of {room}."
            )
        for start, stop in window_ranges(len(pair.context), room, overlap=spec.doc_stride):
            columns.add(pair, start, stop)
    labelled = all(example.answers for example in examples)
    return _feature_set(columns, int(tokenizer.pad_token_id), labelled=labelled)


def _pairs(
    examples: Sequence[QAExample],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_question_length: int,
) -> Iterator[_Pair]:
    texts = list(dict.fromkeys(example.context for example in examples))
    contexts = dict(zip(texts, bare_ids_and_spans(tokenizer, texts)))
    questions = bare_ids(tokenizer, [example.question.lstrip() for example in examples])
    for number, (example, question) in enumerate(zip(examples, questions)):
        ids, spans = contexts[example.context]
        answer = _answer_tokens(example, spans)
        yield _Pair(number, question[:max_question_length], ids, spans, answer)


def window_ranges(tokens: int, room: int, *, overlap: int) -> list[tuple[int, int]]:
    """Return the token ranges of windows of `room` tokens that share `overlap` tokens."""
    ranges = [(0, min(room, tokens))]
    while ranges[-1][1] < tokens:
        start = ranges[-1][0] + room - overlap
        ranges.append((start, min(start + room, tokens)))
    return ranges


def _answer_tokens(example: QAExample, spans: Ids) -> tuple[int, int]:
    """Return the first and last context token that the first answer touches; (-1, -1) if none."""
    if not example.answers:
        return -1, -1
    begin = example.answer_starts[0]
    end = begin + len(example.answers[0])
    first = int(np.searchsorted(spans[:, 1], begin, side="right"))
    last = int(np.searchsorted(spans[:, 0], end, side="left")) - 1
    return (first, last) if first <= last else (-1, -1)


def _feature_set(columns: _Columns, pad_token_id: int, *, labelled: bool) -> FeatureSet:
    lengths = [len(ids) for ids in columns.ids]
    return FeatureSet(
        input_ids=np.concatenate([np.empty(0, np.int32), *columns.ids]),
        offsets=np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))).astype(np.int64),
        segment_one=np.asarray(columns.segment_one, dtype=np.int32),
        example=np.asarray(columns.example, dtype=np.int32),
        pad_token_id=pad_token_id,
        labels=np.asarray(columns.labels, np.int64).reshape(-1, 2) if labelled else None,
        char_spans=np.concatenate([np.empty((0, 2), np.int32), *columns.spans]),
        context_range=np.asarray(columns.context_range, dtype=np.int32).reshape(-1, 2),
    )
