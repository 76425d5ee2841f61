"""Entities in tagged words, and their scores, equal to those of seqeval (its default mode).

seqeval itself is a reference of the tests only: its last release is of 2020, it needs
scikit-learn, and it gives no counts of each sentence, which intervals are read from.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from quala.metrics.classes import Counts

PREFIXES = "BIESLUM"
"""Begin, inside, end and single; BILOU's last and unit are an end and a single, BMES's middle is
an inside."""
_SAME = {"L": "E", "U": "S", "M": "I"}
OUTSIDE = "O"


class Entity(NamedTuple):
    """The words `start` to `end` (exclusive) of one kind."""

    kind: str
    start: int
    end: int


@lru_cache(maxsize=4096)
def tag_parts(tag: str) -> tuple[str, str]:
    """Return the prefix (B, I, E, S or O) and the kind of a tag: `B-PER` is B of PER."""
    prefix, _, kind = tag.partition("-")
    return _SAME.get(prefix, prefix), kind


def are_entity_tags(names: Sequence[str]) -> bool:
    """Return whether tags mark entities: O, and kinds after a prefix, as `B-PER`."""
    marked = [name for name in names if name != OUTSIDE]
    return bool(marked) and all(
        prefix in PREFIXES and len(prefix) == 1 and kind
        for prefix, _, kind in (name.partition("-") for name in marked)
    )


def find_entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities of a sentence by the rules of conlleval, which any tags follow.

    An entity ends before another kind, `B`, `S` and `O`, and after `E` and `S`; what follows
    without a beginning, as an `I` after `O` does, begins one.
    """
    found, begin = [], 0
    before, last = OUTSIDE, ""
    for place, tag in enumerate((*tags, OUTSIDE)):
        prefix, kind = tag_parts(tag)
        other = kind != last
        if before != OUTSIDE and (before in "ES" or prefix in "BSO" or other):
            found.append(Entity(last, begin, place))
        if prefix != OUTSIDE and (prefix in "BS" or before in "OES" or other):
            begin = place
        before, last = prefix, kind
    return found


def entity_counts(
    predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]
) -> tuple[list[str], Counts]:
    """Return the kinds of entities, sorted, and their counts in each sentence, (E, kinds, 3).

    An entity is found where its kind, its first and its last word are right.
    """
    sides = [[set(find_entities(tags)) for tags in side] for side in (predicted, gold)]
    kinds = sorted({one.kind for side in sides for found in side for one in found})
    place = {kind: number for number, kind in enumerate(kinds)}
    counts = np.zeros((len(gold), len(kinds), 3), dtype=np.int64)
    for row, (ours, theirs) in enumerate(zip(*sides, strict=True)):
        for column, part in enumerate((ours & theirs, ours, theirs)):
            for one in part:
                counts[row, place[one.kind], column] += 1
    return kinds, counts
