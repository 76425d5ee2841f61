"""Windows of a question and its context, and sentences, as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import processors
from transformers import BertTokenizer, PreTrainedTokenizerFast

from quala.data.features import ClassificationExample, QAExample
from quala.data.spec import DataSpec
from quala.data.tokenize import (
    FastTokenizer,
    gives_token_types,
    qa_features,
    sentence_features,
    text_features,
    window_ranges,
)
from quala.errors import QualaError

SPEC = DataSpec(task="squad", name="demo", max_length=40, doc_stride=8, max_question_length=20)


def reference(
    tokenizer: PreTrainedTokenizerFast, examples: Sequence[QAExample], spec: DataSpec
) -> list[tuple[int, list[int], list[tuple[int, int] | None]]]:
    """The standard call, for questions that are not cut: (example, ids, context offsets)."""
    encoded = tokenizer(
        [example.question.lstrip() for example in examples],
        [example.context for example in examples],
        truncation="only_second",
        max_length=spec.max_length,
        stride=spec.doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    return [
        (
            encoded["overflow_to_sample_mapping"][row],
            encoded["input_ids"][row],
            [
                span if side == 1 else None
                for span, side in zip(encoded["offset_mapping"][row], encoded.sequence_ids(row))
            ],
        )
        for row in range(len(encoded["input_ids"]))
    ]


def short(questions: Sequence[QAExample]) -> list[QAExample]:
    return [example for example in questions if len(example.question) < 15]


def test_windows_are_those_of_the_standard_tokenizer_call(
    tokenizer: PreTrainedTokenizerFast, questions: Sequence[QAExample]
) -> None:
    examples = short(questions)
    features = qa_features(examples, FastTokenizer.of(tokenizer), SPEC.windows)
    expected = reference(tokenizer, examples, SPEC)
    assert len(features) == len(expected) > len(examples)
    for row, (example, ids, spans) in enumerate(expected):
        begin, end = features.offsets[row], features.offsets[row + 1]
        assert features.example[row] == example
        assert features.input_ids[begin:end].tolist() == ids
        first, last = features.context_range[row]
        assert [n for n, span in enumerate(spans) if span] == list(range(first, last))
        ours = features.char_spans[begin + first : begin + last]
        assert [tuple(span) for span in ours.tolist()] == spans[first:last]


def test_labels_cover_the_answer_or_stand_at_the_first_token(
    tokenizer: PreTrainedTokenizerFast, questions: Sequence[QAExample]
) -> None:
    features = qa_features(questions, FastTokenizer.of(tokenizer), SPEC.windows)
    answered = set()
    for row, (start, end) in enumerate(features.labels):
        example = questions[features.example[row]]
        spans = features.char_spans[features.offsets[row] : features.offsets[row + 1]]
        if end:
            answered.add(example.id)
            assert example.context[spans[start, 0] : spans[end, 1]] == example.answers[0]
        else:
            assert start == 0
    assert answered == {example.id for example in questions}


def test_long_questions_are_cut(
    tokenizer: PreTrainedTokenizerFast, questions: Sequence[QAExample]
) -> None:
    features = qa_features(questions, FastTokenizer.of(tokenizer), SPEC.windows)
    assert features.segment_one.max() == SPEC.max_question_length + 2
    assert features.lengths.max() == SPEC.max_length


def test_notes_count_what_windows_lose(
    tokenizer: PreTrainedTokenizerFast, questions: Sequence[QAExample]
) -> None:
    fast = FastTokenizer.of(tokenizer)
    kept = qa_features(short(questions), fast, SPEC.windows, max_answer_length=30)
    assert kept.notes == ()
    words = "x " * 60
    answers = [words[2:20], words[:60], words[:4]]
    examples = [
        QAExample(str(number), "", words, "what? " * (15 if number else 1), (text,), (start,))
        for number, (text, start) in enumerate(zip(answers, (2, 0, 0), strict=True))
    ]
    features = qa_features(examples, fast, SPEC.windows, max_answer_length=20)
    assert len(features.notes) == 3
    for note, words in zip(
        features.notes,
        (
            "2 of 3 questions are cut to 20 tokens (`data.max_question_length`)",
            "1 of 3 answers are whole in no window and count as no answer (`data.doc_stride`",
            "1 of 3 answers have more than 20 tokens and are never given whole",
        ),
        strict=True,
    ):
        assert note.startswith(words)
    assert not features.labels[features.example == 1].any()


def test_windows_without_the_answer_are_labeled_with_the_first_token(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    fast, words = FastTokenizer.of(tokenizer), "x " * 200
    answered = QAExample("1", "", words, "who?", ("x",), (0,))
    unanswerable = QAExample("2", "", words, "who?")
    plain = qa_features([answered], fast, SPEC.windows)
    both = qa_features([answered, unanswerable], fast, SPEC.windows, null=True)
    assert len(both) == 2 * len(plain) > 4
    assert (both.labels[: len(plain)] == plain.labels).all()  # as without `null`
    assert plain.labels[0].all()
    assert not plain.labels[1:].any()
    assert not both.labels[len(plain) :].any()
    assert qa_features([answered, unanswerable], fast, SPEC.windows).labels is None


def test_an_answer_that_is_short_enough_in_one_form_can_be_given(
    bert_tokenizer: PreTrainedTokenizerFast,
) -> None:
    fast, context = FastTokenizer.of(bert_tokenizer), "the cat sat on the mat"
    both = QAExample("1", "", context, "who?", (context, "the cat"), (0, 0))
    for limit, count in ((2, 0), (1, 1)):
        notes = qa_features([both], fast, SPEC.windows, max_answer_length=limit).notes
        assert len(notes) == count


def test_segment_of_bert_ends_after_the_first_separator(
    bert_tokenizer: PreTrainedTokenizerFast, questions: Sequence[QAExample]
) -> None:
    features = qa_features(short(questions), FastTokenizer.of(bert_tokenizer), SPEC.windows)
    encoded = bert_tokenizer("what sat?", "The cat sat on the mat.", return_token_type_ids=True)
    batch = features.batch([0])
    assert batch["input_ids"][0].tolist() == encoded["input_ids"]
    assert batch["segment_ids"][0].tolist() == encoded["token_type_ids"]


def test_segment_of_roberta_leaves_the_second_separator_to_the_context(
    roberta_tokenizer: PreTrainedTokenizerFast, questions: Sequence[QAExample]
) -> None:
    features = qa_features(questions[:1], FastTokenizer.of(roberta_tokenizer), SPEC.windows)
    head = features.input_ids[: features.segment_one[0] + 1].tolist()
    text = roberta_tokenizer("what sat?")["input_ids"]
    assert head == [*text, roberta_tokenizer.sep_token_id]


@pytest.mark.parametrize(
    ("names", "given"),
    [
        ({}, True),
        ({"model_input_names": ["input_ids", "attention_mask"]}, False),
        ({"model_input_names": ["input_ids", "attention_mask", "token_type_ids"]}, True),
    ],
)
def test_token_types_are_what_the_tokenizer_gives(
    names: dict[str, list[str]], given: bool
) -> None:
    words = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3}
    tokenizer = BertTokenizer(vocab=words, **names)
    assert ("token_type_ids" in tokenizer("a", "b")) is given
    assert gives_token_types(tokenizer) is given


def test_a_tokenizer_of_no_models_class_gives_the_types_of_its_template(
    bert_tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    assert gives_token_types(bert_tokenizer)
    assert "lists no `model_input_names`" in caplog.text


def test_token_types_are_those_of_the_template(bert_tokenizer: PreTrainedTokenizerFast) -> None:
    template: dict[str, Any] = {
        "single": "[CLS] $A [SEP]",
        "special_tokens": [("[CLS]", 2), ("[SEP]", 3)],
    }
    backend = bert_tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(
        pair="[CLS] $A [SEP] $B [SEP]", **template
    )
    assert not gives_token_types(bert_tokenizer)
    backend.post_processor = processors.TemplateProcessing(
        pair="[CLS] $A:1 [SEP] $B [SEP]", **template
    )
    with pytest.raises(QualaError, match=r"zeros or \[0, 0, 0, 1, 1\], got \[0, 1, 0, 0, 0\]"):
        gives_token_types(bert_tokenizer)


def test_examples_without_answers_have_no_labels(
    tokenizer: PreTrainedTokenizerFast, questions: Sequence[QAExample]
) -> None:
    bare = [replace(example, answers=(), answer_starts=()) for example in questions]
    features = qa_features(bare, FastTokenizer.of(tokenizer), SPEC.windows)
    assert features.labels is None
    assert "labels" not in features.batch([0])


def test_an_empty_context_is_one_window(bert_tokenizer: PreTrainedTokenizerFast) -> None:
    features = qa_features(
        [QAExample("1", "", "", "what?")], FastTokenizer.of(bert_tokenizer), SPEC.windows
    )
    assert features.context_range.tolist() == [[4, 4]]


def test_ranges_overlap_and_cover() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        tokens, room = int(rng.integers(0, 60)), int(rng.integers(2, 20))
        overlap = int(rng.integers(0, room))
        ranges = window_ranges(tokens, room, overlap=overlap)
        assert sorted({n for pair in ranges for n in range(*pair)}) == list(range(tokens))
        assert all(b[0] == a[1] - overlap for a, b in pairwise(ranges))


def test_a_slow_or_left_padding_tokenizer_is_refused(
    bert_tokenizer: PreTrainedTokenizerFast, questions: Sequence[QAExample]
) -> None:
    bert_tokenizer.padding_side = "left"
    with pytest.raises(QualaError, match="on the right"):
        qa_features(questions, FastTokenizer.of(bert_tokenizer), SPEC.windows)


SINGLES = [ClassificationExample(str(n), "the cat " * n, None, n % 2) for n in range(1, 6)]
PAIRS = [ClassificationExample(str(n), "the cat " * n, "who sat", n / 2) for n in range(1, 6)]


def test_single_sentences_are_segment_zero(tokenizer: PreTrainedTokenizerFast) -> None:
    features = sentence_features(SINGLES, FastTokenizer.of(tokenizer), max_length=64)
    batch = features.batch(range(5))
    assert batch["segment_ids"].sum() == 0
    assert batch["labels"].tolist() == [[1], [0], [1], [0], [1]]
    expected = tokenizer(SINGLES[0].text)["input_ids"]
    assert features.input_ids[: len(expected)].tolist() == expected


def test_the_second_sentence_is_segment_one(bert_tokenizer: PreTrainedTokenizerFast) -> None:
    features = sentence_features(PAIRS, FastTokenizer.of(bert_tokenizer), max_length=64)
    batch = features.batch([0, 1])
    assert batch["segment_ids"].tolist() == [
        [0, 0, 0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 1, 1],
    ]
    assert batch["labels"].dtype.is_floating_point


def test_the_second_separator_of_roberta_is_segment_one(
    roberta_tokenizer: PreTrainedTokenizerFast,
) -> None:
    features = sentence_features(PAIRS, FastTokenizer.of(roberta_tokenizer), max_length=64)
    single = len(roberta_tokenizer(PAIRS[0].text)["input_ids"])
    assert features.segment_one[0] == single


def test_long_sentences_are_cut(tokenizer: PreTrainedTokenizerFast) -> None:
    features = sentence_features(PAIRS, FastTokenizer.of(tokenizer), max_length=12)
    assert features.lengths.max() == 12
    assert np.array_equal(features.example, np.arange(5))
    whole = sentence_features(PAIRS, FastTokenizer.of(tokenizer), max_length=500)
    longer = int((whole.lengths > 12).sum())
    assert 0 < longer <= 5
    assert features.notes == (f"{longer} of 5 texts are cut to 12 tokens (`data.max_length`).",)
    assert whole.notes == ()


def test_a_mixture_of_singles_and_pairs_is_refused(
    bert_tokenizer: PreTrainedTokenizerFast,
) -> None:
    with pytest.raises(QualaError, match="mixture"):
        sentence_features([*SINGLES, *PAIRS], FastTokenizer.of(bert_tokenizer), max_length=64)


TEXTS = ["a", "the report of the committee " * 3, "naïve 😀 Paris,  1999 " * 2, "x y z " * 9]


@pytest.mark.parametrize("max_length", [8, 9, 23, 40])
def test_texts_to_predict_are_cut_as_those_of_training(
    tiny_tokenizer_folder: Path, max_length: int
) -> None:
    tokenizer = FastTokenizer.read(tiny_tokenizer_folder)
    texts = [(a, b) for a in TEXTS for b in (None, *TEXTS)]
    found, whole = text_features(texts, tokenizer, max_length=max_length)
    for number, (text, pair) in enumerate(texts):
        example = ClassificationExample("0", text, pair)
        wanted = sentence_features([example], tokenizer, max_length=max_length)
        start, stop = found.offsets[number : number + 2]
        assert found.input_ids[start:stop].tolist() == wanted.input_ids.tolist()
        assert found.segment_one[number] == wanted.segment_one[0]
        uncut = sentence_features([example], tokenizer, max_length=10_000)
        assert whole[number] == uncut.lengths[0]


def test_characters_of_texts_to_predict(tiny_tokenizer_folder: Path) -> None:
    tokenizer = FastTokenizer.read(tiny_tokenizer_folder)
    (text, pair), most = ("the report, 1999", "naïve Paris"), 64
    features, _ = text_features([(text, pair)], tokenizer, max_length=most)
    assert features.char_spans is not None
    spans, first = features.char_spans.tolist(), int(features.segment_one[0])
    own = [text[start:end] for start, end in spans[:first] if start < end]
    other = [pair[start:end] for start, end in spans[first:] if start < end]
    assert "".join(own) == text.replace(" ", "")
    assert "".join(other) == pair.replace(" ", "")


def test_windows_of_a_text_to_tag(tiny_tokenizer_folder: Path) -> None:
    tokenizer = FastTokenizer.read(tiny_tokenizer_folder)
    text = "the report of the committee " * 9
    features, (whole,) = text_features([(text, None)], tokenizer, max_length=12, overlap=4)
    assert features.example.tolist() == [0] * len(features)
    assert features.lengths.max() == 12
    assert features.char_spans is not None
    covered = {tuple(one) for one in features.char_spans.tolist()} - {(0, 0)}
    assert len(covered) == whole - 2
