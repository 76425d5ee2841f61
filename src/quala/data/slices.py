"""Slices of a data set, cut from train by article, so that no text is in two of them."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from random import Random
from typing import Generic, TypeVar

from quala.data.features import Example
from quala.data.files import is_delimited
from quala.data.read import source_files
from quala.data.spec import DEMO, DataSpec
from quala.errors import QualaError
from quala.ranges import counts

E = TypeVar("E", bound=Example)
Groups = Sequence[Sequence[int]]
"""The rows of each article, in the order of the seed."""

# All are guesses. Slices that lose a fiftieth, or a few of a small set, are as they always were.
MOST_LOST = 1 / 50
FEW, MOST_OF_FEW = 10, 1 / 10
MOST_LOST_BY_FIT = 1 / 5
LEAST_OF_SIZE = 1 / 4


@dataclass(frozen=True)
class Cut(Generic[E]):
    """Slices of a data set, and how they were cut."""

    slices: Mapping[str, list[E]]
    by: str
    """What is in one slice only: `article`, `passage`, or `text` where these are the same."""
    lost: Mapping[str, int]
    """Examples in no slice, by the slice that others of their article or text are in."""
    shares_articles: bool = False


READER = 2
"""Version of the reading of sentences, and of TSV and CSV, from files."""


def cut(
    examples: Sequence[E], sizes: Mapping[str, int], *, seed: int, rest: str = "train"
) -> Cut[E]:
    """Cut slices of at most `sizes` examples; the other examples are the slice `rest`.

    Articles are taken in the order of the seed until a slice is large enough, and it is subsampled
    to its size. Where more than a fiftieth of all examples (or a few) would then be in no slice,
    the articles whose sizes fit best are taken instead, and where none fit, passages. The cut
    depends on the examples and the seed only, and keeps the order. Raises QualaError where a
    slice, or `rest`, would be empty.
    """
    levels = {"article": _groups(examples, "article", seed)}
    enough = len(levels["article"]) > len([size for size in sizes.values() if size])
    by_fit = partial(_by_fit, least=LEAST_OF_SIZE)
    count = len(examples)
    few = max(MOST_LOST * count, min(FEW, MOST_OF_FEW * count))
    for by, way, most_lost in (
        ("article" if enough else "passage", _in_turn, few),
        ("article", by_fit, MOST_LOST_BY_FIT * count),
        ("passage", by_fit, MOST_LOST_BY_FIT * count),
        ("passage", partial(_by_fit, least=0.0), count),
    ):
        groups = levels.get(by) or levels.setdefault(by, _groups(examples, by, seed))
        chosen = way(groups, sizes, rest)
        if _good(chosen, sizes, most_lost):
            break
    else:
        asked = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise QualaError(
            f"{count} examples of {len(groups)} texts are too few for {asked} and "
            f"`{rest}`; ask for smaller slices, 0 for none."
        )
    return Cut(
        {
            name: subsample([examples[row] for row in rows], sizes.get(name), seed=seed)
            for name, rows in chosen.items()
        },
        by if examples[0].article != examples[0].passage else "text",
        {name: lost for name, lost in _lost(chosen, sizes).items() if lost},
        by == "passage" and len(levels["article"]) < len(groups),
    )


def subsample(examples: Sequence[E], size: int | None, *, seed: int) -> list[E]:
    """Return at most `size` examples, drawn without replacement, in their order."""
    if size is None or len(examples) <= size:
        return list(examples)
    rows = Random(f"subsample {seed}").sample(range(len(examples)), size)
    return [examples[row] for row in sorted(rows)]


def _groups(examples: Sequence[Example], by: str, seed: int) -> Groups:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for row, example in enumerate(examples):
        groups[example.article if by == "article" else example.passage].append(row)
    names = sorted(groups, key=repr)
    Random(f"cut {seed}").shuffle(names)
    return [groups[name] for name in reversed(names)]


Chosen = dict[str, list[int]]
"""The rows of each slice, rising, before it is subsampled."""


def _in_turn(groups: Groups, sizes: Mapping[str, int], rest: str) -> Chosen:
    left = iter(groups)
    chosen: Chosen = {name: [] for name in sizes}
    for name, size in sizes.items():
        while len(chosen[name]) < size and (group := next(left, None)):
            chosen[name] += group
    chosen[rest] = [row for group in left for row in group]
    return {name: sorted(rows) for name, rows in chosen.items()}


def _by_fit(groups: Groups, sizes: Mapping[str, int], rest: str, *, least: float) -> Chosen:
    """Give each slice the groups whose sum is nearest to its size from below.

    Where that is less than `least` of it, or nothing, the smallest larger group is taken.
    """
    left = list(groups)
    chosen: dict[str, list[Sequence[int]]] = {}
    asked = sum(sizes.values())
    for name, size in sizes.items():
        fitting = [group for group in left if len(group) <= size]
        # Slices share the groups that are small enough, where they are few.
        goal = min(size, sum(map(len, fitting)) * size // asked) if size else 0
        asked -= size
        taken = [fitting[place] for place in nearest_sum([len(one) for one in fitting], goal)]
        larger = [group for group in left if len(group) > size]
        if size and larger and (not taken or sum(map(len, taken)) < least * size):
            taken = [min(larger, key=len)]
        chosen[name] = taken
        firsts = {group[0] for group in taken}
        left = [group for group in left if group[0] not in firsts]
    chosen[rest] = left
    return {name: sorted(row for one in parts for row in one) for name, parts in chosen.items()}


def nearest_sum(sizes: Sequence[int], goal: int) -> list[int]:
    """Return the places of the sizes whose sum is nearest to `goal` and at most that.

    Of several such choices it is the one among the first sizes.
    """
    reached, last = 1, {0: -1}  # bit n: sum n is reached; the place that reached it first
    for place, size in enumerate(sizes):
        fresh = (reached << size) & ~reached & ((2 << goal) - 1) if size <= goal else 0
        reached |= fresh
        while fresh:
            last[total := fresh.bit_length() - 1] = place
            fresh ^= 1 << total
        if goal in last:
            break
    places, total = [], max(last)
    while total:
        places.append(last[total])
        total -= sizes[last[total]]
    return places[::-1]


def _lost(chosen: Chosen, sizes: Mapping[str, int]) -> dict[str, int]:
    return {name: max(0, len(chosen[name]) - size) for name, size in sizes.items()}


def _good(chosen: Chosen, sizes: Mapping[str, int], most_lost: float) -> bool:
    full = all(rows or sizes.get(name) == 0 for name, rows in chosen.items())
    return full and sum(_lost(chosen, sizes).values()) <= most_lost


def data_fingerprint(spec: DataSpec) -> str:
    """Return the SHA-256 of everything in a specification that changes training or scores.

    The content of the files at `path` counts, not the path; for the hub, name and revision.
    Raises QualaError when the files do not exist.
    """
    identity = {
        item.name: value
        for item in fields(spec)
        if counts(item, value := getattr(spec, item.name)) and item.name != "path"
    }
    files = [*dict.fromkeys(file for part in source_files(spec).values() for file in part)]
    if files and spec.task != "squad" and (spec.task == "glue" or any(map(is_delimited, files))):
        identity["reader"] = READER
    return _sha256(json.dumps([identity, _content(spec, files)], sort_keys=True))


def _content(spec: DataSpec, files: Sequence[Path]) -> list[str]:
    if spec.name == DEMO:
        from quala.data.demo import demo_examples

        return [_sha256(json.dumps([asdict(row) for row in part])) for part in demo_examples()]
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
