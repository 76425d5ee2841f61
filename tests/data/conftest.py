from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from quala.data.features import QAExample

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?!'-()"


def wordpiece() -> PreTrainedTokenizerFast:
    """A BERT tokenizer of letters, word endings and a few whole words."""
    words = ["the", "cat", "sat", "on", "mat", "what", "who"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words, *LETTERS, *(f"##{c}" for c in LETTERS)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


def byte_level() -> PreTrainedTokenizerFast:
    """A RoBERTa tokenizer of single bytes: several tokens may lie on one character."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *alphabet]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.RobertaProcessing(
        ("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"]), add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", cls_token="<s>", sep_token="</s>"
    )


@pytest.fixture(params=[wordpiece, byte_level])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return request.param()


@pytest.fixture
def bert_tokenizer() -> PreTrainedTokenizerFast:
    return wordpiece()


@pytest.fixture
def roberta_tokenizer() -> PreTrainedTokenizerFast:
    return byte_level()


def question(
    number: int, context: str, answer: str, *, title: str = "", asked: str = "what sat?"
) -> QAExample:
    start = context.index(answer)
    return QAExample(f"q{number}", title, context, asked, (answer,), (start,))


def sample_questions() -> Sequence[QAExample]:
    contexts = [
        ("The cat sat on the mat.", "the mat"),
        ("Zoë's café (1,000 m) stood on a hill, near the old tower of the town.", "1,000 m"),
        (" ".join(f"item {n} costs {n * 7}," for n in range(12)), "costs 70"),
        ("x", "x"),
    ]
    asked = ["what sat?", "  who   stood where and why on which hill of the town?"]
    return [
        question(2 * row + turn, context, answer, asked=text)
        for row, (context, answer) in enumerate(contexts)
        for turn, text in enumerate(asked)
    ]


@pytest.fixture
def questions() -> Sequence[QAExample]:
    return sample_questions()


@pytest.fixture
def real_data() -> Path:
    folder = os.environ.get("QUALA_DATA")
    if not folder:
        pytest.skip("QUALA_DATA names no folder with squad/ and glue/")
    return Path(folder)
