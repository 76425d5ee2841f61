"""Cuts train into slices by article, so that no slice has seen another one's text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from random import Random
from typing import TypeVar

from quala.data.examples import Example, QAExample
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
    titles = _by(examples, [_title(example) for example in examples])
    if len(titles) >= wanted:
        return titles
    return _by(examples, [_text(example) for example in examples])


def _by(examples: Sequence[Example], keys: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        groups[key].append(row)
    return groups


def _title(example: Example) -> Hashable:
    if isinstance(example, QAExample) and example.title:
        return ("title", example.title)
    return _text(example)


def _text(example: Example) -> Hashable:
    if isinstance(example, QAExample):
        return ("context", example.context)
    return ("text", example.text, example.text_pair)
