"""The parts of tokenizing that both tasks share: fast batches and the layout of a pair."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quala.data.features import ClassificationExample, FeatureSet, QAExample
from quala.data.spec import DataSpec
from quala.errors import QualaError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


TEXTS_PER_CALL = 1000
Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class PairLayout:
    """Special tokens before, between and after the two texts of a pair.

    BERT writes [CLS] a [SEP] b [SEP], RoBERTa <s> a </s></s> b </s>.
    """

    before: Ids
    between: Ids
    after: Ids

    @property
    def size(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise QualaError for a tokenizer that is slow, pads on the left or cannot pad."""
    if not tokenizer.is_fast:
        raise QualaError("The tokenizer must be a fast one (tokenizer.json), got a slow one.")
    if tokenizer.padding_side != "right":
        raise QualaError(f"Padding must be on the right, got `{tokenizer.padding_side}`.")
    if tokenizer.pad_token_id is None:
        raise QualaError("The tokenizer needs a padding token, got none.")


def pair_layout(tokenizer: PreTrainedTokenizerBase) -> PairLayout:
    """Read the layout of a pair off the tokenizer. Raises QualaError when there is none."""
    encoded = tokenizer("a", "b")
    sides = encoded.sequence_ids(0)
    ids = np.asarray(encoded["input_ids"], dtype=np.int32)
    if 0 not in sides or 1 not in sides or sides[0] is not None:
        raise QualaError("The tokenizer must write a first special token and keep both texts.")
    last_first = len(sides) - 1 - sides[::-1].index(0)
    first_second, last_second = sides.index(1), len(sides) - 1 - sides[::-1].index(1)
    return PairLayout(
        before=ids[: sides.index(0)],
        between=ids[last_first + 1 : first_second],
        after=ids[last_second + 1 :],
    )


def bare_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Ids]:
    """Return the token ids of each text, without special tokens."""
    return [
        np.asarray(ids, dtype=np.int32)
        for encoded in _calls(tokenizer, texts, offsets=False)
        for ids in encoded["input_ids"]
    ]


def bare_ids_and_spans(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> list[tuple[Ids, Ids]]:
    """Return for each text its token ids (n,) and the characters (n, 2) under each token."""
    return [
        (
            np.asarray(ids, dtype=np.int32),
            np.asarray(spans, dtype=np.int32).reshape(-1, 2),
        )
        for encoded in _calls(tokenizer, texts, offsets=True)
        for ids, spans in zip(encoded["input_ids"], encoded["offset_mapping"])
    ]


def _calls(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, offsets: bool
) -> Iterable[Any]:
    for first in range(0, len(texts), TEXTS_PER_CALL):
        yield tokenizer(
            list(texts[first : first + TEXTS_PER_CALL]),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=offsets,
            truncation=False,
            verbose=False,  # texts longer than the model are cut into windows later
        )


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
    but each context is tokenized once however many questions it has. A window without the
    whole (first) answer is labeled with token 0. Labels are absent when any example has no
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
    labeled = all(example.answers for example in examples)
    return _feature_set(columns, int(tokenizer.pad_token_id), labeled=labeled)


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


def _feature_set(columns: _Columns, pad_token_id: int, *, labeled: bool) -> FeatureSet:
    lengths = [len(ids) for ids in columns.ids]
    return FeatureSet(
        input_ids=np.concatenate([np.empty(0, np.int32), *columns.ids]),
        offsets=np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))).astype(np.int64),
        segment_one=np.asarray(columns.segment_one, dtype=np.int32),
        example=np.asarray(columns.example, dtype=np.int32),
        pad_token_id=pad_token_id,
        labels=np.asarray(columns.labels, np.int64).reshape(-1, 2) if labeled else None,
        char_spans=np.concatenate([np.empty((0, 2), np.int32), *columns.spans]),
        context_range=np.asarray(columns.context_range, dtype=np.int32).reshape(-1, 2),
    )


def sentence_features(
    examples: Sequence[ClassificationExample],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
) -> FeatureSet:
    """Tokenize sentences or pairs, cut to `max_length` tokens (the longer text first).

    Labels are int64 for classes, float32 for values, absent when any example has none.
    Raises QualaError when only some of the examples are pairs.
    """
    check_tokenizer(tokenizer)
    ids: list[Ids] = []
    segment_one: list[int] = []
    for first in range(0, len(examples), TEXTS_PER_CALL):
        encoded = _encode(examples[first : first + TEXTS_PER_CALL], tokenizer, max_length)
        for row, tokens in enumerate(encoded["input_ids"]):
            ids.append(np.asarray(tokens, dtype=np.int32))
            segment_one.append(_leading_zeros(encoded.sequence_ids(row)))
    lengths = [len(tokens) for tokens in ids]
    return FeatureSet(
        input_ids=np.concatenate([np.empty(0, np.int32), *ids]),
        offsets=np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))).astype(np.int64),
        segment_one=np.asarray(segment_one, dtype=np.int32),
        example=np.arange(len(examples), dtype=np.int32),
        pad_token_id=int(tokenizer.pad_token_id),
        labels=_labels(examples),
    )


def _encode(
    examples: Sequence[ClassificationExample],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> Any:
    pairs = [example.text_pair for example in examples if example.text_pair is not None]
    if pairs and len(pairs) < len(examples):
        raise QualaError("Either every example is a pair of sentences or none is, got a mixture.")
    return tokenizer(
        [example.text for example in examples],
        pairs or None,
        truncation="longest_first",
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids=False,
    )


def _leading_zeros(sides: list[int | None]) -> int:
    """Count the tokens up to the separator that closes the first text."""
    if 1 not in sides:
        return len(sides)
    return len(sides) - sides[::-1].index(0) + 1 if 0 in sides else sides.index(1)


def _labels(examples: Sequence[ClassificationExample]) -> NDArray[Any] | None:
    values = [example.label for example in examples]
    if any(value is None for value in values):
        return None
    kind = np.float32 if any(isinstance(value, float) for value in values) else np.int64
    return np.asarray(values, dtype=kind).reshape(-1, 1)
