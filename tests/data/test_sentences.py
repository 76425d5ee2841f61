from __future__ import annotations

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from quala.data.features import ClassificationExample
from quala.data.tokenize import sentence_features
from quala.errors import QualaError

SINGLES = [ClassificationExample(str(n), "the cat " * n, None, n % 2) for n in range(1, 6)]
PAIRS = [ClassificationExample(str(n), "the cat " * n, "who sat", n / 2) for n in range(1, 6)]


def test_single_sentences_are_segment_zero(tokenizer: PreTrainedTokenizerFast) -> None:
    features = sentence_features(SINGLES, tokenizer, max_length=64)
    batch = features.batch(range(5))
    assert batch["segment_ids"].sum() == 0
    assert batch["labels"].tolist() == [[1], [0], [1], [0], [1]]
    expected = tokenizer(SINGLES[0].text)["input_ids"]
    assert features.input_ids[: len(expected)].tolist() == expected


def test_the_second_sentence_is_segment_one(bert_tokenizer: PreTrainedTokenizerFast) -> None:
    features = sentence_features(PAIRS, bert_tokenizer, max_length=64)
    batch = features.batch([0, 1])
    assert batch["segment_ids"].tolist() == [
        [0, 0, 0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 1, 1],
    ]
    assert batch["labels"].dtype.is_floating_point


def test_the_second_separator_of_roberta_is_segment_one(
    roberta_tokenizer: PreTrainedTokenizerFast,
) -> None:
    features = sentence_features(PAIRS, roberta_tokenizer, max_length=64)
    single = len(roberta_tokenizer(PAIRS[0].text)["input_ids"])
    assert features.segment_one[0] == single


def test_long_sentences_are_cut(tokenizer: PreTrainedTokenizerFast) -> None:
    features = sentence_features(PAIRS, tokenizer, max_length=12)
    assert features.lengths.max() == 12
    assert np.array_equal(features.example, np.arange(5))


def test_a_mixture_of_singles_and_pairs_is_refused(
    bert_tokenizer: PreTrainedTokenizerFast,
) -> None:
    with pytest.raises(QualaError, match="mixture"):
        sentence_features([*SINGLES, *PAIRS], bert_tokenizer, max_length=64)
