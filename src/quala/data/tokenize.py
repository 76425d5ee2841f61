"""Text to tokens: windows of a question and its context, and sentences.

With the `tokenizers` library alone, so that training and serving run the same lines.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from quala.data.features import ClassificationExample, FeatureSet, QAExample
from quala.data.spec import Windows
from quala.errors import QualaError
from quala.stored import check_size, read_object

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


log = logging.getLogger(__name__)
LARGEST = 2**28
"""Bytes of a tokenizer.json; those of the largest vocabularies have about 2**25."""
FILE, FACTS, NAMES = "tokenizer.json", "tokenizer_config.json", "model_input_names"
# A call encodes in parallel; its encodings are many times larger than the ids that are kept.
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


class FastTokenizer:
    """A tokenizer of the `tokenizers` library, which training and serving both use.

    Neither truncates nor pads: long texts are cut into windows.
    """

    unknown: int | None = None
    """The special token of words that the vocabulary lacks, where files that were read name it."""

    def __init__(self, backend: Tokenizer, pad_token_id: int) -> None:
        self.backend, self.pad_token_id = backend, pad_token_id
        self._unlimit()

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> FastTokenizer:
        """Take the tokenizer inside one of transformers.

        Raises QualaError for one that is slow, pads on the left or cannot pad.
        """
        if not tokenizer.is_fast:
            raise QualaError("The tokenizer must be a fast one (tokenizer.json), got a slow one.")
        if tokenizer.padding_side != "right":
            raise QualaError(f"Padding must be on the right, got `{tokenizer.padding_side}`.")
        if tokenizer.pad_token_id is None:
            raise QualaError("The tokenizer needs a padding token, got none.")
        return cls(tokenizer.backend_tokenizer, int(tokenizer.pad_token_id))

    @classmethod
    def read(cls, folder: Path, *, words: int | None = None) -> FastTokenizer:
        """Read tokenizer.json without transformers, for a model with `words` ids.

        Raises QualaError when it is damaged, and where it has other ids.
        """
        try:
            check_size(folder / FILE, LARGEST)
            facts = read_object(folder / FACTS)
            backend = Tokenizer.from_file(str(folder / FILE))
            pad = backend.token_to_id(str(facts.get("pad_token", "[PAD]")))
            if pad is None:
                raise QualaError("it needs a padding token, got none.")
            made = cls(backend, pad)
            made.unknown = backend.token_to_id(str(facts.get("unk_token")))
            largest = made._largest_id()
        except BaseException as error:  # the library raises bare ones, and its panics are those
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            reason = str(error).partition("\n")[0]
            raise QualaError(f"Could not read a tokenizer from `{folder}`: {reason}") from error
        if words is not None and largest >= words:
            raise QualaError(
                f"The tokenizer in `{folder}` has the id {largest}, its model {words} words: it "
                "is the tokenizer of another model."
            )
        return made

    def _largest_id(self) -> int:
        """Return the largest id that a text can have, special tokens of a pair included."""
        layout = self.layout()
        marks = np.concatenate((layout.before, layout.between, layout.after)).tolist()
        return int(max([*self.backend.get_vocab(with_added_tokens=True).values(), *marks]))

    def _unlimit(self) -> None:
        # Right settings are left alone: they cannot be changed while another thread encodes.
        if self.backend.truncation is not None:
            self.backend.no_truncation()
        if self.backend.padding is not None:
            self.backend.no_padding()

    def pieces(self, texts: Sequence[str]) -> Iterator[tuple[Ids, Ids]]:
        """Yield for each text its token ids (n,) and the characters (n, 2) under each token.

        There are no special tokens.
        """
        self._unlimit()
        for first in range(0, len(texts), TEXTS_PER_CALL):
            part = list(texts[first : first + TEXTS_PER_CALL])
            for one in self.backend.encode_batch(part, add_special_tokens=False):
                spans = np.asarray(one.offsets, dtype=np.int32).reshape(-1, 2)
                yield np.asarray(one.ids, dtype=np.int32), spans

    def layout(self, *, pair: bool = True) -> PairLayout:
        """Return the layout of a pair, or of one text. Raises QualaError when there is none."""
        self._unlimit()
        if not pair:
            one = self.backend.encode("a")
            marks, own = np.asarray(one.ids, dtype=np.int32), one.sequence_ids
            first, last = own.index(0), len(own) - own[::-1].index(0)
            return PairLayout(before=marks[:first], between=marks[:0], after=marks[last:])
        encoded = self.backend.encode("a", "b")
        sides, ids = encoded.sequence_ids, np.asarray(encoded.ids, dtype=np.int32)
        if 0 not in sides or 1 not in sides or sides[0] is not None:
            raise QualaError("The tokenizer must write a first special token and keep both texts.")
        last_first = len(sides) - 1 - sides[::-1].index(0)
        first_second, last_second = sides.index(1), len(sides) - 1 - sides[::-1].index(1)
        return PairLayout(
            before=ids[: sides.index(0)],
            between=ids[last_first + 1 : first_second],
            after=ids[last_second + 1 :],
        )


def gives_token_types(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether a tokenizer gives a model the segments of a pair as token types.

    Otherwise the model sees type 0 only: the tokenizer gives no types (`model_input_names`), or
    zeros (its template). Raises QualaError for types that are neither.
    """
    from transformers import PreTrainedTokenizerFast

    types = list(tokenizer("a", "b", return_token_type_ids=True)["token_type_ids"])
    if not any(types):
        return False
    if type(tokenizer) is not PreTrainedTokenizerFast or tokenizer.init_kwargs.get(NAMES):
        if "token_type_ids" not in tokenizer.model_input_names:
            return False
    else:  # transformers 4 gave the template's types here, 5 gives none
        log.warning(
            "The tokenizer is of no model's class and lists no `%s`: the token types are those of "
            "its template, the second text has type 1.", NAMES,
        )  # fmt: skip
    first = len(tokenizer("a")["input_ids"])
    segments = [0] * first + [1] * (len(types) - first)
    if types != segments:
        raise QualaError(
            f"The token types of a pair must be zeros or {segments}, got {types} from the "
            "tokenizer."
        )
    return True


@dataclass(frozen=True, slots=True)
class _Pair:
    """One question and its context as tokens."""

    example: int
    question: Ids
    context: Ids
    spans: Ids  # (context tokens, 2)
    answer: tuple[int, int]  # first and last context token, (-1, -1) for none
    cut: bool  # whether the question lost tokens


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

    def add(self, pair: _Pair, start: int, stop: int) -> bool:
        """Append the window of the context tokens `start` to `stop`; tell if the answer is in."""
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
        return inside


def qa_features(
    examples: Sequence[QAExample],
    tokenizer: FastTokenizer,
    windows: Windows,
    *,
    max_answer_length: int | None = None,
    null: bool = False,
) -> FeatureSet:
    """Cut every question and its context into windows of at most `max_length` tokens.

    Equal to a call of a transformers tokenizer with `truncation="only_second"`,
    `stride=doc_stride` and overflow, but each context is tokenized once however many questions it
    has. A window without the whole (first) answer is labeled with token 0, [CLS], as in BERT's
    run_squad. Labels are absent when any example has no answer, unless `null` says that such
    questions are meant: then all their windows have that label. The notes count what is lost,
    answers above `max_answer_length` included. Raises QualaError when the special tokens leave no
    room for windows.
    """
    columns = _Columns(tokenizer.layout())
    cut = split = long = 0
    for pair in _pairs(examples, tokenizer, max_question_length=windows.max_question_length):
        room = windows.max_length - columns.layout.size - len(pair.question)
        if room <= windows.doc_stride:
            raise QualaError(
                f"`doc_stride` {windows.doc_stride} leaves no new tokens in windows of {room}."
            )
        inside = [
            columns.add(pair, start, stop)
            for start, stop in window_ranges(len(pair.context), room, overlap=windows.doc_stride)
        ]
        cut += pair.cut
        split += pair.answer[0] >= 0 and not any(inside)
        if max_answer_length is not None:
            long += _shortest(examples[pair.example], pair.spans) > max_answer_length
    labeled = null or all(example.answers for example in examples)
    input_ids, offsets = flat(columns.ids)
    return FeatureSet(
        input_ids=input_ids,
        offsets=offsets,
        segment_one=np.asarray(columns.segment_one, dtype=np.int32),
        example=np.asarray(columns.example, dtype=np.int32),
        pad_token_id=tokenizer.pad_token_id,
        labels=np.asarray(columns.labels, np.int64).reshape(-1, 2) if labeled else None,
        char_spans=np.concatenate([np.empty((0, 2), np.int32), *columns.spans]),
        context_range=np.asarray(columns.context_range, dtype=np.int32).reshape(-1, 2),
        notes=_notes(
            len(examples),
            {
                f"questions are cut to {windows.max_question_length} tokens "
                "(`data.max_question_length`).": cut,
                "answers are whole in no window and count as no answer (`data.doc_stride` is the "
                "overlap of windows, `data.max_length` their size).": split,
                f"answers have more than {max_answer_length} tokens and are never given whole "
                "(`data.max_answer_length`).": long,
            },
        ),
    )


def _notes(total: int, losses: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(f"{count:,} of {total:,} {what}" for what, count in losses.items() if count)


def _pairs(
    examples: Sequence[QAExample], tokenizer: FastTokenizer, *, max_question_length: int
) -> Iterator[_Pair]:
    texts = list(dict.fromkeys(example.context for example in examples))
    contexts = dict(zip(texts, tokenizer.pieces(texts)))
    questions = tokenizer.pieces([example.question.lstrip() for example in examples])
    for number, (example, (question, _)) in enumerate(zip(examples, questions)):
        ids, spans = contexts[example.context]
        answer = _answer_tokens(example, spans)
        kept = question[:max_question_length]
        yield _Pair(number, kept, ids, spans, answer, len(kept) < len(question))


def window_ranges(tokens: int, room: int, *, overlap: int) -> list[tuple[int, int]]:
    """Return the token ranges of windows of `room` tokens that share `overlap` tokens."""
    ranges = [(0, min(room, tokens))]
    while ranges[-1][1] < tokens:
        start = ranges[-1][0] + room - overlap
        ranges.append((start, min(start + room, tokens)))
    return ranges


def _answer_tokens(example: QAExample, spans: Ids, number: int = 0) -> tuple[int, int]:
    """Return the first and last context token that an answer touches; (-1, -1) if none."""
    if not example.answers:
        return -1, -1
    begin = example.answer_starts[number]
    end = begin + len(example.answers[number])
    first = int(np.searchsorted(spans[:, 1], begin, side="right"))
    last = int(np.searchsorted(spans[:, 0], end, side="left")) - 1
    return (first, last) if first <= last else (-1, -1)


def _shortest(example: QAExample, spans: Ids) -> int:
    """Return the tokens of the shortest answer, 0 without answers."""
    found = (_answer_tokens(example, spans, number) for number in range(len(example.answers)))
    return min((last - first + 1 for first, last in found), default=0)


def flat(ids: Sequence[Ids]) -> tuple[Ids, NDArray[np.int64]]:
    """Return the ids of all features one after another, (T,), and their offsets, (N + 1,)."""
    lengths = [len(tokens) for tokens in ids]
    offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))).astype(np.int64)
    return np.concatenate([np.empty(0, np.int32), *ids]), offsets


def sentence_features(
    examples: Sequence[ClassificationExample], tokenizer: FastTokenizer, *, max_length: int
) -> FeatureSet:
    """Tokenize sentences or pairs, cut to `max_length` tokens (the longer text first).

    Labels are int64 for classes, float32 for values, absent when any example has none. A note
    counts the texts that were cut. Raises QualaError when only some of the examples are pairs.
    """
    pairs = [example.text_pair for example in examples if example.text_pair is not None]
    if pairs and len(pairs) < len(examples):
        raise QualaError("Either every example is a pair of sentences or none is, got a mixture.")
    texts = [(one.text, one.text_pair) for one in examples]
    features, whole = text_features(texts, tokenizer, max_length=max_length)
    cut = int((features.lengths < whole).sum())
    return replace(
        features,
        char_spans=None,  # which nothing needs that trains
        labels=_labels(examples),
        notes=_notes(
            len(examples), {f"texts are cut to {max_length} tokens (`data.max_length`).": cut}
        ),
    )


def paired_features(
    examples: Sequence[ClassificationExample], tokenizer: FastTokenizer, *, max_length: int
) -> FeatureSet:
    """Tokenize the two texts of each pair by themselves: features 2 i and 2 i + 1 of example i."""
    texts = [text for one in examples for text in (one.text, one.text_pair or "")]
    each = [ClassificationExample("", text, None) for text in texts]
    found = sentence_features(each, tokenizer, max_length=max_length)
    return replace(found, example=found.example // 2)


def text_features(
    texts: Sequence[tuple[str, str | None]],
    tokenizer: FastTokenizer,
    *,
    max_length: int,
    overlap: int | None = None,
    words: Sequence[Ids] | None = None,
) -> tuple[FeatureSet, list[int]]:
    """Tokenize texts and pairs, cut to `max_length` tokens as the library's `longest_first` does.

    With an `overlap`, texts are cut into windows that share so many tokens instead. `words` are
    the characters (W, 2) of the words of each text, whose first tokens the features name then.
    Return the features, with the characters of its own text under each token, and the tokens that
    each text or pair has in all, special tokens included. Other than with the library's own
    truncation, nothing is set on the tokenizer, which other threads use, and two long texts take
    no more time than their tokens.
    """
    first = tokenizer.pieces([text for text, _ in texts])
    second = tokenizer.pieces([pair for _, pair in texts if pair is not None])
    layouts = {two: tokenizer.layout(pair=two) for two in {pair is not None for _, pair in texts}}
    none = np.empty(0, np.int32), np.empty((0, 2), np.int32)
    ids: list[Ids] = []
    spans: list[Ids] = []
    begun: list[Ids] = []
    example: list[int] = []
    segment_one: list[int] = []
    whole: list[int] = []
    for number, ((_, pair), (own, own_spans)) in enumerate(zip(texts, list(first))):
        other, other_spans = none if pair is None else next(second)
        layout = layouts[pair is not None]
        whole.append(layout.size + len(own) + len(other))
        room = max_length - layout.size
        kept, rest = _longest_first(len(own), len(other), room)
        cuts = [(0, kept)]
        if overlap is not None:
            cuts = window_ranges(len(own), room, overlap=min(overlap, room - 1))
        own_begun = None if words is None else words_begun(words[number], own_spans)
        for start, stop in cuts:
            parts = (layout.before, own[start:stop], layout.between, other[:rest], layout.after)
            ids.append(np.concatenate(parts))
            size = len(ids[-1])
            inside = slice(len(layout.before), len(layout.before) + stop - start)
            head = inside.stop + len(layout.between)
            spans.append(np.zeros((size, 2), dtype=np.int32))
            spans[-1][inside] = own_spans[start:stop]
            spans[-1][head : head + rest] = other_spans[:rest]
            if own_begun is not None:
                begun.append(np.full(size, -1, dtype=np.int32))
                begun[-1][inside] = own_begun[start:stop]
            example.append(number)
            segment_one.append(size if pair is None else head - max(0, len(layout.between) - 1))
    input_ids, offsets = flat(ids)
    features = FeatureSet(
        input_ids=input_ids,
        offsets=offsets,
        segment_one=np.asarray(segment_one, dtype=np.int32),
        example=np.asarray(example, dtype=np.int32),
        pad_token_id=tokenizer.pad_token_id,
        char_spans=np.concatenate([none[1], *spans]),
        words=None if words is None else np.concatenate([none[0], *begun]),
    )
    return features, whole


def words_begun(words: Ids, spans: Ids) -> Ids:
    """Return for each token (n,) the word whose first token it is, -1 for all others.

    `words` (W, 2) and `spans` (n, 2) are characters, both rising. A token is of the word that has
    its last character: the blank before a word may be part of its first token.
    """
    last = spans[:, 1] - 1
    word = np.searchsorted(words[:, 0], last, side="right") - 1
    inside = (word >= 0) & (spans[:, 1] > spans[:, 0]) & (last < words[word, 1])
    _, firsts = np.unique(word[inside], return_index=True)
    begun = np.full(len(spans), -1, dtype=np.int32)
    places = np.flatnonzero(inside)[firsts]
    begun[places] = word[places]
    return begun


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Return the tokens kept of two texts, as the library's `longest_first` cuts them."""
    if first + second <= room:
        return first, second
    if not second:
        return room, 0
    short = min(first, second)
    long = room - short
    if long < short:
        short, long = room // 2, room - room // 2
    return (short, long) if first <= second else (long, short)


def _labels(examples: Sequence[ClassificationExample]) -> NDArray[Any] | None:
    values = [example.label for example in examples]
    if any(value is None for value in values):
        return None
    kind = np.float32 if any(isinstance(value, float) for value in values) else np.int64
    return np.asarray(values, dtype=kind).reshape(-1, 1)
