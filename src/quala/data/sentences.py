"""Sentences and pairs of sentences as features with a class or a value as label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quala.data.examples import ClassificationExample
from quala.data.features import FeatureSet
from quala.data.tokenize import TEXTS_PER_CALL, Ids, check_tokenizer
from quala.errors import QualaError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def sentence_features(
    examples: Sequence[ClassificationExample],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
) -> FeatureSet:
    """Tokenise sentences or pairs, cut to `max_length` tokens (the longer text first).

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
