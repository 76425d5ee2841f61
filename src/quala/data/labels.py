"""How a data set writes its labels, and the class indices or values that they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from quala.data.examples import ClassificationExample
from quala.errors import QualaError

MAX_CLASSES = 1000


@dataclass(frozen=True, slots=True)
class LabelScheme:
    """The label names in the order of their class indices; None means regression."""

    names: tuple[str, ...] | None

    @property
    def regression(self) -> bool:
        return self.names is None


def label_scheme(labels: Sequence[Any], *, regression: bool) -> LabelScheme:
    """Read the scheme off the training labels.

    Fractional numbers, or `regression`, make a regression. Whole numbers from 0 are class
    indices; anything else is a name, and the names are indexed in sorted order.
    """
    numbers = _numbers(labels)
    if regression:
        if numbers is None:
            raise QualaError("A regression task needs numbers as labels, got strings.")
        return LabelScheme(None)
    if numbers is None:
        return LabelScheme(tuple(sorted({str(label) for label in labels})))
    if any(number != int(number) for number in numbers):
        return LabelScheme(None)
    if min(numbers) < 0 or max(numbers) >= MAX_CLASSES:
        raise QualaError(
            f"Class labels must lie in 0 to {MAX_CLASSES - 1}, "
            f"got {min(numbers):g} to {max(numbers):g}."
        )
    return LabelScheme(tuple(str(index) for index in range(int(max(numbers)) + 1)))


def with_labels(
    examples: Sequence[ClassificationExample], labels: Sequence[Any], *, scheme: LabelScheme
) -> list[ClassificationExample]:
    """Return the examples with their labels as class indices or values.

    Raises QualaError for a label that the training split does not know.
    """
    if scheme.names is None:
        values = _numbers(labels)
        if values is None:
            raise QualaError("The labels are numbers in train but strings in another split.")
        return [replace(example, label=value) for example, value in zip(examples, values)]
    index = {name: number for number, name in enumerate(scheme.names)}
    names = [_name(label) for label in labels]
    strange = sorted(set(names) - set(index))
    if strange:
        raise QualaError(
            f"Label `{strange[0]}` is not one of train's labels: {', '.join(scheme.names[:20])}."
        )
    return [replace(example, label=index[name]) for example, name in zip(examples, names)]


def _numbers(labels: Sequence[Any]) -> list[float] | None:
    try:
        return [float(label) for label in labels]
    except ValueError:
        return None


def _name(label: Any) -> str:
    if isinstance(label, str):
        return label
    return str(int(label)) if label == int(label) else str(label)
