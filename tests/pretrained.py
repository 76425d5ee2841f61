"""Toy encoders as they are published: random weights, and a tokenizer of their family's kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from toys import config_of
from transformers import AutoModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from quala.data.demo import demo_examples

BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
MARKS: dict[str, Sequence[str]] = {
    "mpnet": ("<s>", "<pad>", "</s>", "[UNK]", "<mask>"),
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": (
        "<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>", "<mask>",
    ),
    "deberta-v2": ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"),
    "albert": ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
}  # fmt: skip
"""The special tokens in the order of their ids; the others have BERT's."""
CLASSES = {
    "bert": "BertTokenizer",
    "electra": "ElectraTokenizer",
    "distilbert": "DistilBertTokenizer",
    "mpnet": "MPNetTokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "albert": "AlbertTokenizer",
}
WORD_PIECES = ("bert", "electra", "distilbert", "mpnet")


def _tokenizer(family: str, words: Sequence[str]) -> PreTrainedTokenizerBase:
    """Return a tokenizer of pieces of words or sentences, or of bytes, whose pairs are learned."""
    marks = list(MARKS.get(family, BERT))
    if family == "modernbert":
        return _modern(*_byte_pairs(marks))
    kind: Any = getattr(transformers, CLASSES[family])
    if family == "roberta":
        vocabulary, merges = _byte_pairs(marks)
        made = kind(vocab=vocabulary, merges=merges)
    elif family in WORD_PIECES:
        made = kind(vocab={word: number for number, word in enumerate([*marks, *words])})
    else:
        made = kind(vocab=_sentence_pieces(marks, words))
    assert isinstance(made, PreTrainedTokenizerBase)
    return made


def _byte_pairs(marks: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=marks, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    texts = sorted({one.context for one in demo_examples()[0]})[:60]
    backend.train_from_iterator(texts, trainer)
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def _sentence_pieces(marks: list[str], words: Sequence[str]) -> list[tuple[str, float]]:
    """Return pieces with scores: a word is likelier than its characters."""
    # Trained ones would differ from run to run: the threads of the trainer sum in any order.
    letters = ["\N{LOWER ONE EIGHTH BLOCK}", *(word for word in words if len(word) == 1)]
    whole = [
        f"\N{LOWER ONE EIGHTH BLOCK}{word}" for word in words if word[:2].isalpha() and word[1:]
    ]
    scored = [(piece, -10.0) for piece in letters] + [(piece, -8.0) for piece in whole]
    return [*((one, 0.0) for one in marks), *scored]


def _modern(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> PreTrainedTokenizerBase:
    """Return a tokenizer as ModernBERT has it, of no model's class."""
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(one, vocabulary[one]) for one in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


Pretrained = Callable[[str], Path]


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory, tiny_vocabulary: list[str]) -> Pretrained:
    """Return a maker of folders with a bare encoder of a family and its tokenizer."""

    @cache
    def publish(family: str) -> Path:
        tokenizer = _tokenizer(family, tiny_vocabulary[len(BERT) :])
        config = config_of(
            family, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
            max_position_embeddings=66,
        )  # fmt: skip
        folder = tmp_path_factory.mktemp(f"pretrained-{family}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            AutoModel.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return publish
