"""Slices of a data set, cut from train by article, so that no text is in two of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from random import Random
from typing import Generic, NamedTuple, TypeVar

from quala.data.features import Example
from quala.data.files import DELIMITERS, suffix_of
from quala.data.read import source_files
from quala.data.spec import DEMO, DataSpec
from quala.errors import QualaError
from quala.plugins import FORMATS
from quala.ranges import counts

E = TypeVar("E", bound=Example)
T = TypeVar("T")
Names = Mapping[str, Sequence[Hashable]]
"""The name of each row's article and passage, or whatever is in one slice only."""
Groups = Sequence[Sequence[int]]
"""The rows of each article, in the order of the seed."""
Chosen = dict[str, list[int]]
"""The rows of each slice, rising."""

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
    """What is in one slice only: `article`, `passage`, `text` where these are the same, or
    `question`."""
    lost: Mapping[str, int]
    """Examples in no slice, by the slice that others of their article or text are in."""
    shares_articles: bool = False


READER = 2
"""Version of the reading of sentences, and of TSV and CSV, from files, and of cutting one file."""


def cut(
    examples: Sequence[E],
    sizes: Mapping[str, int],
    *,
    seed: int,
    rest: str = "train",
    apart: bool = False,
) -> Cut[E]:
    """Cut slices of at most `sizes` examples; the other examples are the slice `rest`.

    Articles are taken in the order of the seed until a slice is large enough, and it is subsampled
    to its size. Where more than a fiftieth of all examples (or a few) would then be in no slice,
    the articles whose sizes fit best are taken instead, and where none fit, passages. Where a
    text, without case and extra blanks, would be in two slices, the articles that share it are
    taken as one; so are, with `apart`, pairs that share a sentence, unless these would fill more
    than half of a slice. Where the passages are too few, questions are cut. The cut depends on the
    examples and the seed only, and keeps the order. Raises QualaError where a slice, or `rest`,
    would be empty.
    """
    named: Names = {by: [getattr(one, by) for one in examples] for by in ("article", "passage")}
    texts = texts_of(examples)
    keys = [one.parts if apart or len(one.parts) == 1 else (one.whole,) for one in texts]
    found = _choose(named, sizes, seed=seed, rest=rest)
    if found is None or _meet(found[1].values(), keys):
        united = {by: _united(names, keys) for by, names in named.items()}
        smallest = min((size for size in sizes.values() if size), default=0)
        if apart and max(Counter(united["passage"]).values(), default=0) > smallest / 2:
            return cut(examples, sizes, seed=seed, rest=rest)
        found = _choose(united, sizes, seed=seed, rest=rest) or found
    if found is None and examples and hasattr(examples[0], "question"):
        found = _choose({"question": [one.whole for one in texts]}, sizes, seed=seed, rest=rest)
    if found is None:
        asked = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise QualaError(
            f"{len(examples)} examples of {len({*named['passage']})} texts are too few for "
            f"{asked} and `{rest}`; ask for smaller slices, 0 for none."
        )
    by, rows, lost, shares_articles = found
    if by != "question" and examples[0].article == examples[0].passage:
        by = "text"
    slices = {name: [examples[row] for row in part] for name, part in rows.items()}
    return Cut(slices, by, lost, shares_articles)


def _choose(
    named: Names, sizes: Mapping[str, int], *, seed: int, rest: str
) -> tuple[str, Chosen, dict[str, int], bool] | None:
    """Return what is kept together, the rows of each slice, and what is lost; None: too few."""
    levels = {by: _groups(names, seed) for by, names in named.items()}
    coarse, fine = next(iter(levels)), list(levels)[-1]
    enough = len(levels[coarse]) > len([size for size in sizes.values() if size])
    by_fit = partial(_by_fit, least=LEAST_OF_SIZE)
    count = len(named[coarse])
    few = max(MOST_LOST * count, min(FEW, MOST_OF_FEW * count))
    for by, way, most_lost in (
        (coarse if enough else fine, _in_turn, few),
        (coarse, by_fit, MOST_LOST_BY_FIT * count),
        (fine, by_fit, MOST_LOST_BY_FIT * count),
        (fine, partial(_by_fit, least=0.0), count),
    ):
        chosen = way(levels[by], sizes, rest)
        if _good(chosen, sizes, most_lost):
            lost = {name: rows for name, rows in _lost(chosen, sizes).items() if rows}
            kept = {
                name: subsample(rows, sizes.get(name), seed=seed) for name, rows in chosen.items()
            }
            return by, kept, lost, by != coarse and len(levels[coarse]) < len(levels[fine])
    return None


class Texts(NamedTuple):
    """The texts of an example without case and extra blanks."""

    whole: Hashable
    """All that a model reads, the question included."""
    parts: tuple[Hashable, ...]
    """The passage, or each sentence of a pair."""


def texts_of(examples: Sequence[Example]) -> list[Texts]:
    """Return the texts of each example; equal ones are the same object."""
    plain: dict[Hashable, Hashable] = {}

    def seen(value: Hashable) -> Hashable:
        if value not in plain:
            plain[value] = _plain(value)
        return plain[value]

    found = []
    for one in examples:
        passage, question = one.passage, getattr(one, "question", None)
        whole = seen(passage)
        if question is None and isinstance(passage, tuple):
            parts = tuple(seen(text) for text in passage[1:] if isinstance(text, str))
        else:
            parts = (whole,)
        found.append(Texts(whole if question is None else (whole, seen(question)), parts))
    return found


def _plain(value: Hashable) -> Hashable:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return " ".join(value.casefold().split()) if isinstance(value, str) else value


def _meet(slices: Iterable[Sequence[int]], keys: Sequence[tuple[Hashable, ...]]) -> bool:
    """Return whether a key is in two slices."""
    held = [{key for row in rows for key in keys[row]} for rows in slices]
    return sum(map(len, held)) > len(set().union(*held))


def _united(names: Sequence[Hashable], keys: Sequence[tuple[Hashable, ...]]) -> list[Hashable]:
    """Return a name for each row, the same for rows that share a name or a key, and for theirs."""
    above: dict[Hashable, Hashable] = {}

    def top(item: Hashable) -> Hashable:
        while (higher := above.setdefault(item, item)) != item:
            above[item] = above[higher]
            item = higher
        return item

    for name, shared in zip(names, keys, strict=True):
        for key in shared:
            above[top(("key", key))] = top(("name", name))
    return [top(("name", name)) for name in names]


def subsample(examples: Sequence[T], size: int | None, *, seed: int) -> list[T]:
    """Return at most `size` examples, drawn without replacement, in their order."""
    if size is None or len(examples) <= size:
        return list(examples)
    rows = Random(f"subsample {seed}").sample(range(len(examples)), size)
    return [examples[row] for row in sorted(rows)]


def _groups(names: Sequence[Hashable], seed: int) -> Groups:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        groups[name].append(row)
    order = sorted(groups, key=repr)
    Random(f"cut {seed}").shuffle(order)
    return [groups[name] for name in reversed(order)]


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

    The content of the files at `path` counts, not the path; for the hub, name and revision. A
    `title` changes no result. Raises QualaError when the files do not exist.
    """
    identity = {
        item.name: value
        for item in fields(spec)
        if counts(item, value := getattr(spec, item.name)) and item.name != "path"
    }
    parts = list(source_files(spec).values())
    files = [*dict.fromkeys(file for part in parts for file in part)]
    own = spec.task not in ("squad", "glue") and any(suffix_of(one) in DELIMITERS for one in files)
    if files and (spec.task == "glue" or own or len(files) == 1):
        identity["reader"] = READER
    files += FORMATS.find(spec.task).beside(spec)
    content = _content(spec, files)
    if len(files) > 2:
        identity["files"] = [*map(len, parts)]
    return _sha256(json.dumps([identity, content], sort_keys=True))


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
