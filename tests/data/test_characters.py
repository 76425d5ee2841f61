"""Answers by characters on the tokens of any tokenizer, against a slow plain-Python reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from data.conftest import byte_level, wordpiece
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from quala.data.characters import (
    LEAST_SHARE,
    LOWEST,
    NO_ANSWER,
    CharacterAnswers,
    of_windows,
    on_tokens,
)
from quala.data.features import FeatureSet, QAExample
from quala.data.spec import Windows
from quala.data.tokenize import FastTokenizer, qa_features
from quala.errors import QualaError

CONTEXTS = (
    "Zoë's café (1,000 m) stood  on a hill, near\tthe old tower.",
    " 😀 The mat\u200b was 👩‍👩‍👧 red; naïve co\u0308operation ﬁne.",
    "x",
    "Ein Straßenfest — in Kraków. " * 4,
)


def sentencepiece() -> PreTrainedTokenizerFast:
    """An XLM-R tokenizer of characters and some words: a token holds the blank before it."""
    letters = sorted({one for text in CONTEXTS for one in text if not one.isspace()})
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -5.0)]
    pieces += [(one, -9.0) for one in letters] + [(f"▁{one}", -8.0) for one in letters]
    pieces += [("▁old", -6.0), ("▁The", -6.0), ("▁hill", -6.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=3))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", cls_token="<s>", sep_token="</s>"
    )


TOKENIZERS = {"bytes": byte_level, "sentencepiece": sentencepiece, "wordpiece": wordpiece}
Make = Callable[[], PreTrainedTokenizerFast]


def features_of(make: Make, context: str, length: int = 40) -> FeatureSet:
    tokenizer = FastTokenizer.of(make())
    windows = Windows(max_length=length, doc_stride=4, max_question_length=4)
    return qa_features([QAExample("q", "", context, "a")], tokenizer, windows)


def reference(
    masses: list[list[tuple[int, float]]], context: str, spans: list[list[int]], head: int, n: int
) -> list[list[float]]:
    """Return the log-probabilities (n, 2) by the rule in words, character by character."""
    made = [[0.0, 0.0] for _ in range(n)]
    shares = []
    for side in (0, 1):
        inside = 0.0
        for place, mass in masses[side]:
            if place == NO_ANSWER:
                made[0][side] += mass
                inside += mass
                continue
            at = place - side  # the last character of an answer
            while 0 <= at < len(context) and context[at].isspace():
                at += 1 if side == 0 else -1
            if not 0 <= at < len(context) or not spans[0][0] <= at < spans[-1][1]:
                continue
            covering = [i for i, (low, high) in enumerate(spans) if low <= at < high]
            if covering:
                token = covering[0] if side == 0 else covering[-1]
            elif side == 0:
                token = next(i for i, (_, high) in enumerate(spans) if high > at)
            else:
                token = max(i for i, (low, _) in enumerate(spans) if low <= at)
            made[head + token][side] += mass
            inside += mass
        shares.append(inside / sum(mass for _, mass in masses[side]))
    if min(shares) < LEAST_SHARE:
        made = [[float(row == 0)] * 2 for row in range(n)]
    totals = [sum(row[side] for row in made) for side in (0, 1)]
    return [
        [
            max(LOWEST, math.log(row[side] / totals[side])) if row[side] else LOWEST
            for side in (0, 1)
        ]
        for row in made
    ]


def masses_of(answers: CharacterAnswers) -> list[list[tuple[int, float]]]:
    return [
        [
            (int(place), math.exp(score))
            for place, score in zip(
                answers.character[0, side], answers.log_probability[0, side], strict=True
            )
            if np.isfinite(score)
        ]
        for side in (0, 1)
    ]


def mapped(answers: CharacterAnswers, context: str, student: FeatureSet, row: int) -> Any:
    assert student.char_spans is not None
    assert student.context_range is not None
    low, high = student.context_range[row].tolist()
    first = student.offsets[row]
    spans = student.char_spans[first + low : first + high]
    tokens = int(student.lengths[row])
    found = on_tokens(
        answers.character[0], answers.log_probability[0], context=context, spans=spans, head=low,
        tokens=tokens,
    )  # fmt: skip
    expected = reference(masses_of(answers), context, spans.tolist(), low, tokens)
    return found, expected


@pytest.mark.parametrize("student", TOKENIZERS)
@pytest.mark.parametrize("teacher", TOKENIZERS)
@pytest.mark.parametrize("context", CONTEXTS, ids=range(len(CONTEXTS)))
def test_answers_of_one_tokenizer_are_mapped_to_another(
    teacher: str, student: str, context: str
) -> None:
    draw = np.random.default_rng(len(context))
    said = features_of(TOKENIZERS[teacher], context, length=60)
    outputs = [draw.normal(0, 3, (length, 2)) for length in said.lengths]
    answers = of_windows(said, outputs, examples=1, null=teacher == "bytes")
    heard = features_of(TOKENIZERS[student], context)
    for row in range(len(heard)):
        found, expected = mapped(answers, context, heard, row)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(np.exp(found).sum(axis=0), 1, atol=1e-6)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_teacher_of_the_gold_span_gives_the_gold_labels(name: str) -> None:
    context = CONTEXTS[0]
    text = "near\tthe old tower"
    start = context.index(text)
    example = QAExample("q", "", context, "a", (text,), (start,))
    windows = Windows(max_length=40, doc_stride=4, max_question_length=4)
    student = qa_features([example], FastTokenizer.of(TOKENIZERS[name]()), windows)
    gold = CharacterAnswers(
        np.array([[[start], [start + len(text)]]]), np.zeros((1, 2, 1)), np.zeros(1)
    )
    assert student.labels is not None
    for row in range(len(student)):
        found, _ = mapped(gold, context, student, row)
        assert found.argmax(axis=0).tolist() == student.labels[row].tolist()


def test_the_surest_window_answers() -> None:
    context = CONTEXTS[3]
    said = features_of(wordpiece, context, length=30)
    outputs = [np.zeros((length, 2)) for length in said.lengths]
    outputs[2][9, 0] = outputs[2][10, 1] = 9.0
    outputs[0][5:7, 0] = 8.0  # no end of its own
    answers = of_windows(said, outputs, examples=1)
    assert answers.span_logit[0] == 18
    assert said.char_spans is not None
    best = answers.log_probability[0].argmax(axis=1)
    place = said.offsets[2] + np.array([9, 10])
    expected = [said.char_spans[place[0], 0], said.char_spans[place[1], 1]]
    assert [answers.character[0, side, best[side]] for side in (0, 1)] == expected


def test_the_likeliest_characters_are_kept_and_those_of_one_character_are_one() -> None:
    character = np.array([[[4, 4, 7, 1], [9, 8, 8, 8]]])
    scores = np.log([[[0.2, 0.25, 0.4, 0.15], [0.4, 0.2, 0.2, 0.2]]])
    top = CharacterAnswers(character, scores, np.zeros(1)).top(2)
    assert top.character.tolist() == [[[4, 7], [8, 9]]]
    np.testing.assert_allclose(np.exp(top.log_probability), [[[0.45, 0.4], [0.6, 0.4]]], rtol=1e-6)


def test_a_window_without_mass_has_no_answer_and_a_silent_teacher_says_nothing() -> None:
    spans = np.array([[10, 12], [12, 15]])
    options = {"context": "x" * 20, "spans": spans, "head": 3, "tokens": 6}
    outside = on_tokens(np.array([[2, 11], [4, 13]]), np.log([[0.95, 0.05]] * 2), **options)
    assert outside is not None
    assert outside[0].tolist() == [0, 0]
    assert (outside[1:] == LOWEST).all()
    fill = np.full((2, 2), -np.inf)
    assert on_tokens(np.zeros((2, 2), int), fill, **options) is None
    with pytest.raises(QualaError, match="character 40 is beyond a context of 20"):
        on_tokens(np.array([[40], [41]])[:, :1] - [[0], [0]], np.zeros((2, 1)), **options)
