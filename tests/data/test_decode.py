from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AlbertTokenizer, DebertaV2Tokenizer, PreTrainedTokenizerFast

from quala.data.decode import (
    Decoding,
    NotFinite,
    best_answers,
    decode_answers,
    null_differences,
    null_probability,
)
from quala.data.features import FeatureSet, QAExample
from quala.data.spec import DataSpec
from quala.data.tokenize import FastTokenizer, qa_features
from quala.errors import QualaError

SPEC = DataSpec(task="squad", name="demo", max_length=40, doc_stride=8, max_question_length=20)
LIMITS = Decoding(n_best=6, max_answer_length=5)
Scored = dict[tuple[int, int], float]


def standard(
    examples: Sequence[QAExample], features: FeatureSet, outputs: list[np.ndarray], index: int
) -> Scored:
    """The usual post-processing, one loop per choice: spans and the best of their scores.

    Spans without the blanks at their ends: a byte-level tokenizer has tokens of blanks alone.
    """
    context = examples[index].context
    found: Scored = {}
    for row in np.flatnonzero(features.example == index):
        first, last = features.context_range[row]
        spans = features.char_spans[features.offsets[row] : features.offsets[row + 1]]
        starts = np.argsort(outputs[row][:, 0])[-1 : -LIMITS.n_best - 1 : -1]
        ends = np.argsort(outputs[row][:, 1])[-1 : -LIMITS.n_best - 1 : -1]
        for start in starts:
            for end in ends:
                if not (first <= start < last and first <= end < last):
                    continue
                if end < start or end - start + 1 > LIMITS.max_answer_length:
                    continue
                inside = [
                    place
                    for place in range(int(spans[start, 0]), int(spans[end, 1]))
                    if not context[place].isspace()
                ]
                if not inside:
                    continue
                span = (inside[0], inside[-1] + 1)
                score = float(outputs[row][start, 0]) + float(outputs[row][end, 1])
                found[span] = max(score, found.get(span, -math.inf))
    return found


def random_outputs(features: FeatureSet, seed: int) -> list[np.ndarray]:
    """Logits of a model that has learned that answers stand in the context."""
    rng = np.random.default_rng(seed)
    outputs = [rng.standard_normal((n, 2)).astype(np.float32) for n in features.lengths]
    for logits, (first, last) in zip(outputs, features.context_range):
        logits[:first] -= 100
        logits[last:] -= 100
    return outputs


@pytest.mark.parametrize("seed", range(5))
def test_answers_are_those_of_the_standard_post_processing(
    tokenizer: PreTrainedTokenizerFast, questions: Sequence[QAExample], seed: int
) -> None:
    features = qa_features(questions, FastTokenizer.of(tokenizer), SPEC.windows)
    outputs = random_outputs(features, seed)
    decoded = decode_answers(questions, features, outputs, decoding=LIMITS)
    assert list(decoded) == list(range(len(questions)))
    for index, answers in decoded.items():
        expected = standard(questions, features, outputs, index)
        ranked = sorted(expected.values(), reverse=True)[: LIMITS.n_best]
        assert [answer.score for answer in answers] == pytest.approx(ranked)
        assert all(
            expected[(answer.start, answer.end)] == pytest.approx(answer.score)
            for answer in answers
        )


def test_question_tokens_are_never_answers(
    tokenizer: PreTrainedTokenizerFast, questions: Sequence[QAExample]
) -> None:
    features = qa_features(questions, FastTokenizer.of(tokenizer), SPEC.windows)
    outputs = [np.zeros((n, 2), np.float32) for n in features.lengths]
    for logits, (first, _) in zip(outputs, features.context_range):
        logits[:first] = 50
    decoded = decode_answers(questions, features, outputs, decoding=LIMITS)
    assert all(answers[0].score == 0 for answers in decoded.values())


def test_text_comes_from_the_original_context(
    tokenizer: PreTrainedTokenizerFast, questions: Sequence[QAExample]
) -> None:
    features = qa_features(questions, FastTokenizer.of(tokenizer), SPEC.windows)
    outputs = [np.zeros((n, 2), np.float32) for n in features.lengths]
    for logits, (start, end) in zip(outputs, features.labels):
        logits[start, 0] = logits[end, 1] = 9
    wide = Decoding(max_answer_length=40, keep=1)
    decoded = decode_answers(questions, features, outputs, decoding=wide)
    expected = {example.id: example.answers[0] for example in questions}
    assert best_answers(questions, decoded) == expected


def test_probabilities_sum_to_one(
    bert_tokenizer: PreTrainedTokenizerFast, questions: Sequence[QAExample]
) -> None:
    features = qa_features(questions, FastTokenizer.of(bert_tokenizer), SPEC.windows)
    decoded = decode_answers(questions, features, random_outputs(features, 0), decoding=LIMITS)
    for answers in decoded.values():
        assert sum(answer.probability for answer in answers) == pytest.approx(1)


def test_no_answer_is_as_far_ahead_as_in_its_least_sure_window(
    tokenizer: PreTrainedTokenizerFast, questions: Sequence[QAExample]
) -> None:
    features = qa_features(questions, FastTokenizer.of(tokenizer), SPEC.windows)
    outputs = random_outputs(features, 3)
    rng = np.random.default_rng(0)
    for logits in outputs:
        logits[0] = rng.normal(size=2)
    decoded = decode_answers(questions, features, outputs, decoding=LIMITS)
    ahead = null_differences(features, outputs, decoded)
    several = 0
    for index, difference in ahead.items():
        rows = np.flatnonzero(features.example == index)
        several += len(rows) > 1
        lowest = min(float(outputs[row][0, 0]) + float(outputs[row][0, 1]) for row in rows)
        best = max(standard(questions, features, outputs, index).values())
        assert difference == pytest.approx(lowest - best)
    assert several
    rows = features.rows_of([1, 2]).tolist()
    part = null_differences(
        features, [outputs[row] for row in rows], {1: decoded[1], 2: []}, rows=rows
    )
    assert part == {1: ahead[1], 2: math.inf}


def test_no_answer_is_as_likely_as_not_at_the_threshold() -> None:
    assert null_probability(1.5, 1.5) == 0.5
    assert null_probability(math.inf, 0.0) == 1.0
    assert null_probability(0.0, 1e300) == 0.0
    assert null_probability(2.0, 1.0) == pytest.approx(1 / (1 + math.exp(-1)))


def test_some_features_give_some_answers(
    bert_tokenizer: PreTrainedTokenizerFast, questions: Sequence[QAExample]
) -> None:
    features = qa_features(questions, FastTokenizer.of(bert_tokenizer), SPEC.windows)
    outputs = random_outputs(features, 0)
    rows = features.rows_of([1, 2]).tolist()
    part = decode_answers(
        questions, features, [outputs[row] for row in rows], decoding=LIMITS, rows=rows
    )
    whole = decode_answers(questions, features, outputs, decoding=LIMITS)
    assert part == {1: whole[1], 2: whole[2]}


def test_an_empty_context_has_the_empty_answer(bert_tokenizer: PreTrainedTokenizerFast) -> None:
    examples = [QAExample("1", "", "", "what?")]
    features = qa_features(examples, FastTokenizer.of(bert_tokenizer), SPEC.windows)
    outputs = [np.zeros((n, 2), np.float32) for n in features.lengths]
    decoded = decode_answers(examples, features, outputs, decoding=LIMITS)
    assert best_answers(examples, decoded) == {"1": ""}


def test_where_the_best_start_and_end_make_no_answer_the_best_of_all_does(
    bert_tokenizer: PreTrainedTokenizerFast, questions: Sequence[QAExample]
) -> None:
    """The best start is behind the best end; by brute force over all spans."""
    features = qa_features(questions, FastTokenizer.of(bert_tokenizer), SPEC.windows)
    outputs = random_outputs(features, 0)
    for logits, (first, last) in zip(outputs, features.context_range):
        logits[last - 1, 0] = logits[first, 1] = 9
    one = Decoding(n_best=1, max_answer_length=3)
    decoded = decode_answers(questions, features, outputs, decoding=one)
    for index, answers in decoded.items():
        scores = [
            float(outputs[row][start, 0]) + float(outputs[row][end, 1])
            for row in features.rows_of([index])
            for first, last in [features.context_range[row]]
            for start in range(first, last)
            for end in range(start, min(start + 3, last))
        ]
        assert [answer.score for answer in answers] == [pytest.approx(max(scores))]
        assert answers[0].probability == 1


def test_a_best_pair_of_blanks_alone_is_no_answer() -> None:
    context = "a  b"
    examples = [QAExample("1", "", context, "what?")]
    features = qa_features(examples, FastTokenizer.of(metaspace()), SPEC.windows)
    logits = np.zeros((int(features.lengths[0]), 2), np.float32)
    first, last = features.context_range[0]
    blank = next(
        place
        for place in range(first, last)
        if not context[slice(*features.char_spans[place])].strip()
    )
    logits[blank] = 9
    (answers,) = decode_answers(
        examples, features, [logits], decoding=Decoding(n_best=1, max_answer_length=1)
    ).values()
    assert [answer.text for answer in answers] == ["a"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused(
    value: float, bert_tokenizer: PreTrainedTokenizerFast, questions: Sequence[QAExample]
) -> None:
    features = qa_features(questions, FastTokenizer.of(bert_tokenizer), SPEC.windows)
    outputs = random_outputs(features, 0)
    outputs[-1][features.context_range[-1][0], 1] = value
    with pytest.raises(NotFinite, match="NaN or infinite"):
        decode_answers(questions, features, outputs, decoding=LIMITS)


def test_wrong_numbers_of_outputs_are_refused(
    bert_tokenizer: PreTrainedTokenizerFast, questions: Sequence[QAExample]
) -> None:
    features = qa_features(questions, FastTokenizer.of(bert_tokenizer), SPEC.windows)
    with pytest.raises(QualaError, match="Expected the logits"):
        decode_answers(questions, features, [], decoding=LIMITS)
    short = [np.zeros((2, 2), np.float32)] * len(features)
    with pytest.raises(QualaError, match="needs logits of shape"):
        decode_answers(questions, features, short, decoding=LIMITS)


def metaspace() -> PreTrainedTokenizerFast:
    """A sentencepiece tokenizer of single characters: the blank before a word is in its token."""
    pieces = ["<unk>", "<s>", "</s>", "<pad>", "▁", *"▁t ▁c ▁s".split(), *"abcdefghiknostuw."]
    scored = [(piece, -float(len(pieces)) if piece == "<unk>" else -1.0) for piece in pieces]
    backend = Tokenizer(models.Unigram(scored, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B </s>",
        special_tokens=[("<s>", 1), ("</s>", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", cls_token="<s>", sep_token="</s>"
    )


def all_answers(tokenizer: PreTrainedTokenizerFast, context: str) -> set[str]:
    """Every answer that any logits can give in a short context."""
    examples = [QAExample("1", "", context, "what?")]
    features = qa_features(examples, FastTokenizer.of(tokenizer), SPEC.windows)
    outputs = [np.zeros((n, 2), np.float32) for n in features.lengths]
    wide = Decoding(n_best=40, max_answer_length=40, keep=2000)
    answers = decode_answers(examples, features, outputs, decoding=wide)[0]
    assert all(answer.text == context[answer.start : answer.end] for answer in answers)
    assert len({(answer.start, answer.end) for answer in answers}) == len(answers)
    return {answer.text for answer in answers}


@pytest.mark.parametrize(
    "word",
    [
        "Jose\u0301",  # e, acute accent
        "\u0643\u062a\u0627\u0628\u064b",  # Arabic with tanwin at its end
        "\u1112\u1161\u11ab\u1100\u1173\u11af",  # two Hangul syllables, of three Jamo each
        "\U0001f44d\U0001f3fd",  # thumbs up, skin tone
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",  # a family, joined
        "\U0001f1eb\U0001f1f7",  # a flag
        "हिन्दी",
        "\u00e9",  # composed
    ],
)
def test_an_answer_holds_whole_graphemes(tokenizer: PreTrainedTokenizerFast, word: str) -> None:
    context = f"{word} sat, the {word}."
    whole = regex.findall(r"\X", context)
    edges = set(np.cumsum([0, *map(len, whole)]).tolist())
    examples = [QAExample("1", "", context, "what?")]
    windows = DataSpec(task="squad", name="demo", max_length=128, doc_stride=8).windows
    features = qa_features(examples, FastTokenizer.of(tokenizer), windows)
    outputs = [np.zeros((n, 2), np.float32) for n in features.lengths]
    wide = Decoding(n_best=99, max_answer_length=99, keep=9999)
    answers = decode_answers(examples, features, outputs, decoding=wide)[0]
    assert {word, f"the {word}", f"{word} sat"} <= {answer.text for answer in answers}
    assert all({answer.start, answer.end} <= edges for answer in answers)


def unigram(kind: type[AlbertTokenizer | DebertaV2Tokenizer], folder: Path) -> Any:
    """A tokenizer of ALBERT or DeBERTa-v3, as training has it and as serving reads it."""
    special = {
        AlbertTokenizer: ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
        DebertaV2Tokenizer: ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"),
    }[kind]
    pieces = ["▁", *"▁the ▁cat ▁s at".split(), *"abcdefghiknostuw."]
    made = kind(vocab=[*((one, 0.0) for one in special), *((one, -1.0) for one in pieces)])
    made.save_pretrained(folder)
    return made


def test_an_answer_has_no_blanks_at_its_ends(tmp_path: Path) -> None:
    makers = (AlbertTokenizer, DebertaV2Tokenizer)
    for tokenizer in (metaspace(), *(unigram(kind, tmp_path) for kind in makers)):
        found = all_answers(tokenizer, "the cat  sat.")
        assert {"the", "cat", "sat", "the cat", "cat  sat."} <= found
        assert all(text == text.strip() and text for text in found)


@pytest.mark.parametrize("kind", [AlbertTokenizer, DebertaV2Tokenizer])
def test_training_and_serving_read_the_same_sentencepiece_tokens(
    kind: type[AlbertTokenizer | DebertaV2Tokenizer], tmp_path: Path
) -> None:
    made = unigram(kind, tmp_path)
    text = "The  cat\nsat \tin a café — née."
    examples = [QAExample("1", "", text, "who sat?")]
    trained, served = (
        qa_features(examples, one, SPEC.windows)
        for one in (FastTokenizer.of(made), FastTokenizer.read(tmp_path))
    )
    both = made("who sat?", text, return_offsets_mapping=True)
    assert trained.input_ids.tolist() == served.input_ids.tolist() == both["input_ids"]
    first, last = trained.context_range[0]
    spans = [tuple(span) for span in trained.char_spans[first:last].tolist()]
    assert spans == both["offset_mapping"][first:last]
    assert trained.pad_token_id == served.pad_token_id == made.pad_token_id
