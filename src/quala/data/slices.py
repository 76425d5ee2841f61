"""Slices of a data set, cut from train by article, so that no text is in two of them."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from random import Random
from typing import TypeVar

from quala.data.features import Example
from quala.data.formats import format_of
from quala.data.read import is_single_file, source_files
from quala.data.spec import DEMO, DataSpec
from quala.data.task import Task
from quala.errors import QualaError

E = TypeVar("E", bound=Example)


def cut(
    examples: Sequence[E], sizes: Mapping[str, int], *, seed: int, rest: str = "train"
) -> dict[str, list[E]]:
    """Cut slices of about `sizes` examples from train; what is left is the slice `rest`.

    A slice takes whole articles until it has enough and is then subsampled to its size, so no
    title (GLUE: no text) is in two slices. With fewer titles than slices, contexts take their
    place. The cut depends on the examples and the seed only; order is kept. Raises QualaError
    when nothing would be left.
    """
    groups = _groups(examples, len([size for size in sizes.values() if size]) + 1)
    names = sorted(groups, key=repr)
    Random(f"cut {seed}").shuffle(names)
    slices: dict[str, list[E]] = {}
    for name, size in sizes.items():
        taken: list[int] = []
        while len(taken) < size and names:
            taken.extend(groups[names.pop()])
        slices[name] = subsample([examples[row] for row in sorted(taken)], size, seed=seed)
    left = sorted(row for name in names for row in groups[name])
    if not left:
        asked = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise QualaError(
            f"{len(examples)} examples in {len(groups)} articles leave none for `{rest}` after "
            f"{asked}; ask for smaller slices."
        )
    slices[rest] = [examples[row] for row in left]
    return slices


def subsample(examples: Sequence[E], size: int | None, *, seed: int) -> list[E]:
    """Return at most `size` examples, drawn without replacement, in their order."""
    if size is None or len(examples) <= size:
        return list(examples)
    rows = Random(f"subsample {seed}").sample(range(len(examples)), size)
    return [examples[row] for row in sorted(rows)]


def _groups(examples: Sequence[Example], wanted: int) -> dict[Hashable, list[int]]:
    articles = _by([example.article for example in examples])
    if len(articles) >= wanted:
        return articles
    return _by([example.passage for example in examples])


def _by(keys: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        groups[key].append(row)
    return groups


# Search and selection are at most a fifth of train each, so that small data sets keep most of it;
# a tenth of a single file is a usual test set. Both are guesses.
SHARE_OF_TRAIN = 5
SHARE_OF_FILE = 10


class Source:
    """The slices of a specification: search and selection are cut from train, never from test.

    Each of them is at most a fifth of train, so that small data sets keep something to learn.
    A single file has no splits: a tenth of it, whole articles, becomes its test slice.
    """

    def __init__(self, spec: DataSpec) -> None:
        self.spec = spec
        self._format = format_of(spec)

    @property
    def task(self) -> Task:
        """The task; where the format does not settle it, the training labels do."""
        return self._format.known_task(self.spec) or self._train[1]

    def examples(self, name: str) -> list[Example]:
        """Return the examples of the slice train, search, selection or test."""
        if name == "test":
            return subsample(self._test, self.spec.max_test, seed=self.spec.seed)
        found = self._cut[name]
        limit = self.spec.max_train if name == "train" else None
        return subsample(found, limit, seed=self.spec.seed)

    @cached_property
    def _single(self) -> bool:
        return is_single_file(self.spec)

    @cached_property
    def _train(self) -> tuple[list[Example], Task]:
        return self._format.read(self.spec, self.spec.train_split, None)

    @cached_property
    def _test(self) -> Sequence[Example]:
        if self._single:
            return self._cut["test"]
        return self._format.read(self.spec, self.spec.test_split, self.task)[0]

    @cached_property
    def _cut(self) -> dict[str, list[Example]]:
        train = self._train[0]
        most = len(train) // SHARE_OF_TRAIN
        asked = {"search": self.spec.search_size, "selection": self.spec.selection_size}
        sizes = {name: min(size, most) for name, size in asked.items()}
        if self._single:
            sizes = {"test": max(1, len(train) // SHARE_OF_FILE), **sizes}
        return cut(train, sizes, seed=self.spec.seed)


def data_fingerprint(spec: DataSpec) -> str:
    """Return the sha256 of everything in the specification that shapes what is learned or scored.

    `path` does not count, the content of its files does; for the hub name and revision count.
    Raises QualaError when the files do not exist.
    """
    fields = asdict(spec)
    del fields["path"]
    return _sha256(json.dumps([fields, _content(spec)], sort_keys=True))


def _content(spec: DataSpec) -> list[str]:
    if spec.name == DEMO:
        from quala.data.demo import demo_examples

        return [_sha256(json.dumps([asdict(row) for row in part])) for part in demo_examples()]
    digests = []
    for path in source_files(spec):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
