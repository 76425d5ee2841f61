"""Tagged words: rows to sentences, sentences to windows of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from quala.data.features import FeatureSet, TaggedExample
from quala.data.files import Place, Row
from quala.data.labels import MAX_CLASSES, find, listed
from quala.data.read import numbered_names, split_rows
from quala.data.spec import DataSpec
from quala.data.task_tags import NO_TAG, Tags
from quala.data.tokenize import FastTokenizer, Ids, text_features
from quala.errors import QualaError
from quala.metrics.entities import OUTSIDE

WORD_COLUMNS = ("tokens", "words")
TAG_COLUMNS = ("tags", "ner_tags", "labels", "ner")


def read_tags(
    spec: DataSpec, split: str, *, task: Tags | None, left_out: dict[str, int]
) -> tuple[list[TaggedExample], Tags]:
    """Read the sentences of a split; without `task` their tags define it, O first, then sorted.

    Tags that are numbers have the names of the data's features, in their order, where there are
    any. `left_out` counts the rows without a word. Raises QualaError when the split is absent,
    malformed or empty and, with the place of the row, for missing columns, words and tags that
    are not as many, and tags that train does not have.
    """
    rows: list[tuple[Place, list[str], list[Any], int | None]] = []
    bare = 0
    for place, row in split_rows(spec, split):
        words, tags = _words_and_tags(row, place)
        if words:
            document = row.get("document")
            rows.append((place, words, tags, document if isinstance(document, int) else None))
        bare += not words
    if bare:
        left_out[f"{split}: rows without a word"] = bare
    if not rows:
        raise QualaError(f"The split `{split}` of `{spec.path or spec.name}` has no words.")
    called = _called(rows, spec)
    if task is None:
        names = called or _sorted_names({str(tag) for _, _, tags, _ in rows for tag in tags})
        if len(names) > MAX_CLASSES:
            raise QualaError(
                f"Tags may be at most {MAX_CLASSES} different ones, got {len(names)}: "
                f"{listed(names)}; `data.columns.tags` names another column."
            )
        task = Tags(len(names), names=names, primary=spec.metric)
    known: dict[Any, int] = {}
    examples = []
    for number, (place, words, tags, document) in enumerate(rows):
        for tag in tags:
            if tag not in known:
                known[tag] = _place_of(called[tag] if called else str(tag), task.names, place)
        indices = tuple(known[tag] for tag in tags)
        examples.append(TaggedExample(str(number), tuple(words), indices, document))
    return examples, task


def _words_and_tags(row: Row, place: Place) -> tuple[list[str], list[Any]]:
    words_in, tags_in = (
        next((name for name in names if name in row), None)
        for names in (WORD_COLUMNS, TAG_COLUMNS)
    )
    if words_in is None and "1" in row:  # a CoNLL file: the first and the last column
        words_in, tags_in = "1", tags_in or [key for key in row if key.isdecimal()][-1]
    if words_in is None or tags_in is None:
        wanted, option = (WORD_COLUMNS, "tokens") if words_in is None else (TAG_COLUMNS, "tags")
        raise QualaError(
            f"{place} has none of {', '.join(wanted)}, it has {', '.join(row)}; "
            f"`data.columns.{option}` names the column."
        )
    words, tags = row[words_in], row[tags_in]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise QualaError(f"{place}: `{words_in}` must be a list of words.")
    kinds = {type(tag) for tag in tags} if isinstance(tags, list) else set()
    if not isinstance(tags, list) or (kinds - {str} and kinds - {int}):
        raise QualaError(f"{place}: `{tags_in}` must be a list of names or of numbers.")
    if any(tag < 0 for tag in tags if isinstance(tag, int)):
        raise QualaError(f"{place}: `{tags_in}` must be names, or numbers from 0.")
    if len(words) != len(tags):
        raise QualaError(f"{place} has {len(words)} words, but {len(tags)} tags.")
    return words, tags


def _called(rows: Sequence[tuple[Place, Any, list[Any], Any]], spec: DataSpec) -> tuple[str, ...]:
    """Return the names of tags that are numbers; () where they have none, or are names."""
    numbers = [(tag, place) for place, _, tags, _ in rows for tag in tags if isinstance(tag, int)]
    called = numbered_names(spec, column="tags", usual=TAG_COLUMNS) if numbers else ()
    top, place = max(numbers, default=(0, None))
    if called and top >= len(called):
        raise QualaError(f"{place}: the tag {top} is none of {listed(called)}.")
    return called


def _sorted_names(names: set[str]) -> tuple[str, ...]:
    """Return O first, numbers by value, names as texts."""
    numbers = all(map(str.isdecimal, names))
    return tuple(sorted(names, key=lambda one: (one != OUTSIDE, int(one) if numbers else 0, one)))


def _place_of(name: str, names: Sequence[str], place: Place) -> int:
    found = find(name, names)
    if found is None:
        raise QualaError(f"{place}: the tag `{name}` is not one of train's: {listed(names)}.")
    return found


def tag_features(
    examples: Sequence[TaggedExample], tokenizer: FastTokenizer, spec: DataSpec
) -> FeatureSet:
    """Cut sentences into windows of at most `max_length` tokens that share `doc_stride` tokens.

    A sentence is its words with blanks between them. The first token of a word has its tag, all
    others -100 (`NO_TAG`); a word without a token has none. Labels (N, max_length) are absent
    when any example has no tags.
    """
    features, _ = text_features(
        [(one.text, None) for one in examples],
        tokenizer,
        max_length=spec.max_length,
        overlap=spec.doc_stride,
        words=[word_spans(one.words) for one in examples],
    )
    assert features.words is not None  # they were asked for
    labels = None
    if all(len(one.tags) == len(one.words) for one in examples):
        labels = np.full((len(features), spec.max_length), NO_TAG, dtype=np.int64)
        for row, owner in enumerate(features.example.tolist()):
            own = features.words[features.offsets[row] : features.offsets[row + 1]]
            begins = np.flatnonzero(own >= 0)
            labels[row, begins] = np.asarray(examples[owner].tags)[own[begins]]
    return replace(features, char_spans=None, labels=labels)


def word_spans(words: Sequence[str]) -> Ids:
    """Return the characters (W, 2) of words with a blank between any two."""
    sizes = np.array([len(word) for word in words], dtype=np.int32)
    starts = np.cumsum(sizes + 1, dtype=np.int32) - sizes - 1
    return np.stack((starts, starts + sizes), axis=1)
