"""Slices of a data set, cut from train by article, so that no text is in two of them."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from random import Random
from typing import TypeVar

from quala.data.features import Example
from quala.data.files import is_delimited
from quala.data.read import source_files
from quala.data.spec import DEMO, DataSpec
from quala.errors import QualaError
from quala.ranges import counts

E = TypeVar("E", bound=Example)

READER = 2
"""Version of the reading of sentences, and of TSV and CSV, from files."""


def cut(
    examples: Sequence[E], sizes: Mapping[str, int], *, seed: int, rest: str = "train"
) -> dict[str, list[E]]:
    """Cut slices of about `sizes` examples from train; the other examples are the slice `rest`.

    Whole articles are added to a slice until it is large enough; then it is subsampled to its
    size. So no article is in two slices. With fewer articles than slices, passages are used
    instead. The cut depends on the examples and the seed only, and keeps the order. Raises
    QualaError when nothing would be left.
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
    """Return the rows of each article, or of each passage with fewer than `wanted` articles."""
    keys = [example.article for example in examples]
    if len(set(keys)) < wanted:
        keys = [example.passage for example in examples]
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        groups[key].append(row)
    return groups


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
