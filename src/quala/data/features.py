"""Examples, and the features that tokenizing makes of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quala.errors import QualaError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class QAExample:
    """A question about a context; without answers at inference.

    `answer_starts` are character offsets into `context`, one per answer.
    """

    id: str
    title: str
    context: str
    question: str
    answers: tuple[str, ...] = ()
    answer_starts: tuple[int, ...] = ()

    @property
    def article(self) -> Hashable:
        """Questions about one article are in one slice."""
        return ("title", self.title) if self.title else self.passage

    @property
    def passage(self) -> Hashable:
        """Replaces the article where there are fewer articles than slices."""
        return ("context", self.context)


@dataclass(frozen=True, slots=True)
class ClassificationExample:
    """One sentence or a pair; the label is a class index, or a float for regression."""

    id: str
    text: str
    text_pair: str | None
    label: int | float | None = None
    group: str | None = None
    """The query that the row is an item of, where rankings are scored."""

    @property
    def article(self) -> Hashable:
        """Equal texts, and the items of a query, are in one slice."""
        return self.passage if self.group is None else ("group", self.group)

    @property
    def passage(self) -> Hashable:
        """The text, because a sentence belongs to no article."""
        return ("text", self.text, self.text_pair)


@dataclass(frozen=True, slots=True)
class TaggedExample:
    """The words of a sentence, and the index of each word's tag; without tags at inference."""

    id: str
    words: tuple[str, ...]
    tags: tuple[int, ...] = ()
    document: int | None = None

    @property
    def text(self) -> str:
        """The words with blanks between them, which is what a model reads."""
        return " ".join(self.words)

    @property
    def article(self) -> Hashable:
        """The sentences of a document are in one slice."""
        return self.passage if self.document is None else ("document", self.document)

    @property
    def passage(self) -> Hashable:
        """Replaces the document where there are fewer documents than slices."""
        return ("text", self.text)


class Example(Protocol):
    """One row of a data set, such as `QAExample` or `ClassificationExample`."""

    @property
    def id(self) -> str:
        """Unique within a split."""

    @property
    def article(self) -> Hashable:
        """Examples of one article are in one slice."""

    @property
    def passage(self) -> Hashable:
        """Replaces the article where there are fewer articles than slices."""


class Batch(TypedDict):
    """Tensors of B features, padded at the right to n tokens.

    `segment_ids` is 0 on [CLS] question [SEP] (or the single sentence) and on padding, 1 on
    context [SEP]; a model with one token type ranks tokens by it but does not read it. `labels`
    is int64 (B, 2) for spans, (B, 1) for classes, (B, longest) for tags, -100 where a token has
    none, float32 (B, 1) for regression, and absent at inference.
    """

    input_ids: Tensor  # (B, n) int64
    attention_mask: Tensor  # (B, n) int64, 1 = real token
    segment_ids: Tensor  # (B, n) int64
    feature: Tensor  # (B,) int64, row of the FeatureSet
    labels: NotRequired[Tensor]  # (B, D)


def equal_lengths(
    lengths: ArrayLike, batch_size: int, rows: Sequence[int] | None = None
) -> list[list[int]]:
    """Return `rows` (None: all) once, longest first, in batches of one length: no padding."""
    counts = np.asarray(lengths, dtype=np.int64)
    groups: dict[int, list[int]] = {}
    for row in range(len(counts)) if rows is None else rows:
        groups.setdefault(int(counts[row]), []).append(row)
    return [
        groups[count][first : first + batch_size]
        for count in sorted(groups, reverse=True)
        for first in range(0, len(groups[count]), batch_size)
    ]


Ints = NDArray[np.integer[Any]]
Arrays = dict[str, NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """N tokenized inputs of different lengths, in flat arrays.

    Feature i holds the tokens `offsets[i]` to `offsets[i + 1]` and belongs to the example
    `example[i]`. Its row is its id. `char_spans` are, for question answering, the characters
    of the context under each token; they are set in `context_range` only.
    """

    input_ids: Ints  # (T,) int32
    offsets: Ints  # (N + 1,) int64
    segment_one: Ints  # (N,) int32, number of leading tokens of segment 0
    example: Ints  # (N,) int32, rising
    pad_token_id: int
    labels: NDArray[Any] | None = None  # (N, D) int64 or float32
    char_spans: Ints | None = None  # (T, 2) int32
    context_range: Ints | None = None  # (N, 2) int32, first context token and the one after it
    words: Ints | None = None  # (T,) int32, the word that begins at each token, -1 elsewhere
    notes: tuple[str, ...] = ()
    """What tokenizing lost, a sentence for each kind of loss."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Real tokens of each feature, int64 (N,)."""
        return np.diff(self.offsets).astype(np.int64)

    def rows_of(self, examples: Sequence[int]) -> NDArray[np.int64]:
        """Return the rows of all features of the given examples, rising."""
        return np.flatnonzero(np.isin(self.example, np.asarray(examples, dtype=np.int64)))

    def batch(self, rows: Sequence[int], *, pad_to: int | None = None) -> Batch:
        """Return the features as tensors, padded to their longest or to `pad_to` tokens.

        Raises QualaError for no rows, and for rows that are longer than `pad_to`.
        """
        # The runtime uses `arrays` only and starts without torch.
        import torch

        arrays = self.arrays(rows, pad_to=pad_to)
        batch = Batch(
            input_ids=torch.from_numpy(arrays["input_ids"]),  # (B, n)
            attention_mask=torch.from_numpy(arrays["attention_mask"]),  # (B, n)
            segment_ids=torch.from_numpy(arrays["segment_ids"]),  # (B, n)
            feature=torch.tensor(np.asarray(rows, dtype=np.int64)),  # (B,)
        )
        if self.labels is not None:
            batch["labels"] = torch.from_numpy(self.labels[np.asarray(rows)])  # (B, D)
        return batch

    def arrays(self, rows: Sequence[int], *, pad_to: int | None = None) -> Arrays:
        """Return input_ids, attention_mask and segment_ids as `batch` does, int64 (B, n)."""
        chosen = np.asarray(rows, dtype=np.int64)
        if chosen.size == 0:
            raise QualaError("A batch needs at least one feature, got none.")
        starts = self.offsets[chosen][:, None]
        lengths = self.offsets[chosen + 1][:, None] - starts  # (B, 1)
        longest = int(lengths.max())
        width = longest if pad_to is None else pad_to
        if longest > width:
            raise QualaError(f"`pad_to` must be at least {longest}, the longest row, got {width}.")
        column = np.arange(width)[None, :]
        real = column < lengths  # (B, n)
        position = np.minimum(starts + column, len(self.input_ids) - 1)
        ids = np.where(real, self.input_ids[position], self.pad_token_id)
        second = real & (column >= self.segment_one[chosen][:, None])
        return {
            "input_ids": ids.astype(np.int64),
            "attention_mask": real.astype(np.int64),
            "segment_ids": second.astype(np.int64),
        }
