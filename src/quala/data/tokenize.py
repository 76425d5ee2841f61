"""The parts of tokenising that both tasks share: fast batches and the layout of a pair."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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
