"""Labels: the task that they make, their names in the order of the outputs, each row's own."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from quala.data.features import ClassificationExample
from quala.data.files import Place, Row
from quala.data.spec import DataSpec
from quala.data.task import Classes, Task, Value
from quala.errors import QualaError
from quala.metrics.glue import REGRESSION_METRICS, task_metrics
from quala.metrics.ranking import RANKING_METRICS

# Guesses: more classes mean that the column is no label but an id, a count or a text; so do more
# than MANY, most of which occur once.
MAX_CLASSES, MANY = 1000, 20
LABEL_COLUMNS = ("label", "labels", "score", "gold_label", "is_duplicate", "Quality")
MISSING = ("", "nan", "<na>")
"""Texts of a cell without a label; pandas writes the second. SNLI's `gold_label` has `-`."""
POSITIVE = (
    "positive", "pos", "yes", "true", "equivalent", "duplicate", "paraphrase", "entailment",
    "relevant",
)  # fmt: skip
"""Names of classes that F1 is of, where the other class has none of them."""
# Codes such as 007 are names: as numbers they would lose their zeros.
_NUMBER = re.compile(
    r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE | re.ASCII
)

_DIGITS = re.compile(r"[0-9]+")
LONGEST = 500
"""Characters of a label. A guess."""
_WITH_COMMA = re.compile(r"[+-]?\d+(,\d+)*(\.\d+)?")
_UNIT = re.compile(r"^[$€£]\s*|\s*[%‰$€£°]$")


class Label(NamedTuple):
    """The label of a row: a number, a text, or None where the cell is empty."""

    value: float | str | None
    place: Place


def label_of(row: Row, place: Place) -> Label:
    """Return the label of a row, blanks around a text removed.

    Raises QualaError where no column holds labels, and for infinity, lists and the like.
    """
    column = next((name for name in LABEL_COLUMNS if name in row), None)
    if column is None:
        raise QualaError(
            f"{place} has no `label`; it has {', '.join(row) or 'nothing'}; `data.columns.label` "
            "names another column."
        )
    value = row[column]
    if value is None or value != value:
        return Label(None, place)
    if isinstance(value, (str, bool)):  # CSV has the same names of booleans
        text = str(value).strip()
        if len(text) > LONGEST:
            raise QualaError(
                f"{place}: `{column}` has {len(text):,} characters, a label at most {LONGEST}; "
                "`data.columns.label` names another column."
            )
        absent = text.lower() in MISSING or (column == "gold_label" and text == "-")
        return Label(None if absent else text, place)
    if not hasattr(value, "__float__"):  # Decimal has it
        raise QualaError(
            f"{place}: `{column}` must be a number or a string, got {type(value).__name__}."
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise QualaError(f"{place}: `{column}` must be finite, got {value}.")
    return Label(number, place)


def label_examples(
    examples: Sequence[ClassificationExample],
    labels: Sequence[Label],
    spec: DataSpec,
    *,
    split: str,
    task: Task | None,
) -> tuple[list[ClassificationExample], Task]:
    """Return the examples that have a label, with it, and the task; None: that of their labels.

    An empty cell is no label, nor is -1, unless it is a class or one of the values of a
    regression. Raises QualaError where no row has a label, for a row without one unless
    `unlabeled` is "drop", and for what `labeled_task` and `with_labels` refuse.
    """
    labels = _as_numbers(labels)
    bare = _bare(labels, spec, task)
    if bare:
        value, place = labels[bare[0]]
        text = f"{place} has no label (got {'nothing' if value is None else '-1'})"
        if len(bare) == len(labels):
            raise QualaError(
                f"{text}, nor has another row: `{split}` is an unlabeled split, which cannot be "
                "scored; choose a labeled one with `data.test_split`."
            )
        if spec.unlabeled == "refuse":
            listing = ", `data.labels` lists a -1 that is a class"
            raise QualaError(
                f"{text}: {len(bare)} of {len(labels)} rows of `{split}` are unlabeled; "
                f"`data.unlabeled=drop` leaves them out{'' if value is None else listing}."
            )
        kept = sorted({*range(len(labels))} - {*bare})
        examples, labels = [examples[row] for row in kept], [labels[row] for row in kept]
    if task is None:
        task = labeled_task(labels, spec)
    return with_labels(examples, labels, task=task), task


def labeled_task(labels: Sequence[Label], spec: DataSpec) -> Classes | Value:
    """Return the task that fits the training labels.

    Fractions (unless `data.labels` lists them), the subset `stsb` or a metric of values make a
    regression. Other labels are classes in rising order: numbers by value, else as texts. Raises
    QualaError for a regression of texts, a metric that does not fit and, unless `data.labels`
    lists them, for names that are numbers in another writing, more than 1,000 names, more than 20
    most of which occur once, and names that differ in case or blanks only.
    """
    regression = _is_regression(labels, spec)
    ranked = spec.group is not None or spec.metric in RANKING_METRICS
    metrics = task_metrics(spec.subset, regression=regression, metric=spec.metric, ranked=ranked)
    if regression:
        _values(labels)
        for option in ("labels", "f1_class"):
            if getattr(spec, option):
                raise QualaError(f"`data.{option}` is for classes, the labels are values.")
        return Value(metrics=metrics)
    counts = Counter(_name(label.value) for label in labels)
    if _all_numbers(labels):
        names = sorted(counts, key=float)
        hint = "`data.metric=pearson_spearman` makes them values, `data.labels` classes"
    else:
        names = _one_spelling(sorted(counts), spec.labels)
        hint = (
            "`data.columns.label` names another column, `data.labels` the classes, if these are "
            "they"
        )
        if not spec.labels:
            _check_texts(labels, names)
    if not spec.labels:
        what = "numbers" if _all_numbers(labels) else "names"
        span = f"{len(names)} from {names[0]:.40} to {names[-1]:.40}; {hint}."
        if len(names) > MAX_CLASSES:
            raise QualaError(f"Labels may be at most {MAX_CLASSES} different {what}, got {span}")
        once = sum(count == 1 for count in counts.values())
        if len(names) > MANY and 2 * once > len(names):
            raise QualaError(
                f"Labels must be classes with several examples, but {once} of the {what} occur "
                f"once, got {span}"
            )
    return Classes(len(names), metrics, tuple(names))


def _check_texts(labels: Sequence[Label], names: Sequence[str]) -> None:
    """Raise QualaError for numbers that are written as texts."""
    bare = [_UNIT.sub("", name) for name in names]
    if not all(map(_WITH_COMMA.fullmatch, bare)):
        return
    place = labels[0].place
    comma = next((name for name in names if "," in name), None)
    if comma is not None:
        raise QualaError(
            f"{place}: the labels are numbers with a comma, such as `{comma}`, which would be "
            "names of classes; write numbers as 3.14 and 1000, or list the names in `data.labels`."
        )
    unit = next((name for name, number in zip(names, bare) if name != number), None)
    if unit is not None and len(names) > MANY:
        raise QualaError(
            f"{place}: the labels are {len(names)} different numbers with a unit, such as "
            f"`{unit}`, which would be names of classes; write them without it, or list the names "
            "in `data.labels`."
        )


def _one_spelling(names: Sequence[str], listed_names: Sequence[str]) -> list[str]:
    """Return the names, one of those that differ in case and blanks only.

    Raises QualaError for such names, unless `listed_names` has one of them, or all.
    """
    same: dict[str, list[str]] = {}
    for name in names:
        same.setdefault(" ".join(name.split()).casefold(), []).append(name)
    kept = []
    for spelled in same.values():
        if len(spelled) == 1 or {*spelled} <= {*listed_names}:
            kept += spelled
        elif find(spelled[0], listed_names) is not None:
            kept.append(next((name for name in spelled if name in listed_names), spelled[0]))
        else:
            raise QualaError(
                f"The labels `{'` and `'.join(spelled)}` differ in case or blanks only; correct "
                "the data, or list the classes in `data.labels`: in one spelling, if they are one "
                "class."
            )
    return sorted(kept)


def with_labels(
    examples: Sequence[ClassificationExample], labels: Sequence[Label], *, task: Task
) -> list[ClassificationExample]:
    """Return the examples with their labels as class indices or values.

    Raises QualaError for a label that the task does not have.
    """
    if not isinstance(task, Classes):
        values = _values(labels)
        return [replace(example, label=value) for example, value in zip(examples, values)]
    places = {value: find(_name(value), task.names) for value in {one.value for one in labels}}
    for label in labels:
        if places[label.value] is None:
            raise QualaError(
                f"{label.place}: label `{_name(label.value)}` is not one of train's labels: "
                f"{listed(task.names)}."
            )
    return [replace(example, label=places[one.value]) for example, one in zip(examples, labels)]


def find(label: str, names: Sequence[str]) -> int | None:
    """Return the index of a label: of the same name, else of the one name spelled alike.

    Alike are 1 and 1.0, names that differ in case, blanks, inner `-` and `_` only, and `true` and
    a `yes`, or the 1 of 0 and 1, of two names.
    """
    if label in names:
        return names.index(label)
    alike = [index for index, name in enumerate(names) if _folded(name) == _folded(label)]
    yes = [one for one in names if _folded(one) in (("1",) if "0" in names else POSITIVE)]
    if _folded(label) in ("false", "true") and len(names) == 2 and len(yes) == 1:
        return (names.index(yes[0]) + (_folded(label) == "false")) % 2
    return alike[0] if len(alike) == 1 else None


@dataclass(frozen=True)
class LabelOrder:
    """The classes of a data set by the outputs of a model."""

    names: tuple[str, ...]
    """As the model or `data.labels` has them."""
    spelled: tuple[str, ...]
    """The same labels as the data spell them."""
    places: tuple[int, ...]
    """The output of each class of the data."""


def outputs_of(
    own: Sequence[str], spec: DataSpec, model: Sequence[str] | None, called: Sequence[str] = ()
) -> LabelOrder:
    """Return the outputs for the labels `own` of the data, in the order of the model's names.

    `data.labels` has that order where it is given. Labels are found by name. Whole numbers are
    found by the names that the data's columns have for them (`called`), else by the one number in
    each of the model's names; those from 0 else are the outputs' own indices, where the names are
    no numbers and the last output has one. Raises QualaError for labels that the model does not
    have, and where `data.labels` contradicts it.
    """
    if model and spec.labels:
        alike = [*map(_folded, spec.labels)] == [*map(_folded, model)]
        if len(model) != len(spec.labels) or not (alike or _are_indices(model, len(model))):
            raise QualaError(
                f"`data.labels` are {listed(spec.labels)}, the model's labels {listed(model)}: "
                "they must be the same in the same order."
            )
    names = spec.labels or model or own
    places = [find(label, names) for label in own]
    nowhere, numbers = [None] * len(own), dict[str, int | None]()
    if places == nowhere and all(map(str.isdecimal, own)):
        runs = [_DIGITS.findall(name[:LONGEST]) for name in names]
        inside = [str(int(found[0])) for found in runs if len(found) == 1]
        if called and not spec.labels:
            numbers = {str(number): find(name, names) for number, name in enumerate(called)}
        elif len({*inside}) == len(names) and max(inside, key=int) in own:
            numbers = {number: place for place, number in enumerate(inside)}
        numbers = numbers if {*own} <= numbers.keys() else {}
        places = [numbers.get(label) for label in own]
    # Without a 0 they may count from 1, as stars do.
    numbered = "0" in own and places == nowhere and not any(map(_NUMBER.fullmatch, names))
    numbered = numbered and _are_indices(own, len(names))
    # With fewer classes than outputs they are another model's indices, unless `labels` says so.
    numbered = numbered and (bool(spec.labels) or max(map(int, own)) == len(names) - 1)
    if numbered:
        places = [int(label) for label in own]
    known = [place for place in places if place is not None]
    if len({*known}) < len(own):
        holder = "`data.labels`" if spec.labels else "the model"
        raise QualaError(
            f"The data's labels are {listed(own)}, those of {holder} {listed(names)}: each of the "
            "data's must be one of them, or their numbers from 0; `data.labels` names the "
            "outputs in their order, `model.new_head=true` draws a head for other labels."
        )
    spelled = [*map(str, range(len(names)))] if numbered else [*names]
    for label, one in (*numbers.items(), *zip(own, known, strict=True)):
        if one is not None:
            spelled[one] = label
    return LabelOrder(tuple(names), tuple(spelled), tuple(known))


def positive_class(outputs: LabelOrder, spec: DataSpec) -> int:
    """Return the class that F1 is of.

    That is `f1_class`; else the one with a name such as `yes` or `equivalent`, or the number 1 of
    0 and 1. Raises QualaError for other than two classes, and where it is not known.
    """
    names = outputs.names
    if len(names) != 2:
        raise QualaError(
            f"`f1` is for two classes, the data have {len(names)} ({listed(names)}); use "
            "`data.metric=f1_macro` or `data.metric=f1_weighted`."
        )
    if spec.f1_class is not None:
        found = find(spec.f1_class, names)
        found = find(spec.f1_class, outputs.spelled) if found is None else found
        found = int(spec.f1_class) if found is None and spec.f1_class in ("0", "1") else found
        if found is None:
            raise QualaError(
                f"`data.f1_class` must be one of {listed(names)}, got {spec.f1_class}."
            )
        return found
    for spelled in (names, outputs.spelled):
        known = yes_of(spelled)
        if known is not None:
            return spelled.index(known)
    raise QualaError(
        f"F1 needs to know which class counts as positive: choose `data.f1_class={names[0]}` or "
        f"`data.f1_class={names[1]}`."
    )


def yes_of(names: Sequence[str]) -> str | None:
    """Return the one name such as `yes` or `equivalent`, or the 1 of 0 and 1; None without one."""
    known = [name for name in names if _folded(name) in POSITIVE]
    if len(known) == 1:
        return known[0]
    return "1" if {*names} in ({"0", "1"}, {"-1", "1"}) else None


def listed(names: Sequence[str]) -> str:
    """Return the first labels as a text."""
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _bare(labels: Sequence[Label], spec: DataSpec, task: Task | None) -> list[int]:
    """Return the rows without a label."""
    minus = [label.value in (-1.0, "-1") for label in labels]
    values = isinstance(task, Value) or (task is None and _is_regression(labels, spec))
    classes = (*spec.labels, *(task.names if isinstance(task, Classes) else ()))
    if (values or "-1" in classes) and not all(minus):
        minus = [False] * len(labels)
    return [row for row, label in enumerate(labels) if minus[row] or label.value is None]


def _is_regression(labels: Sequence[Label], spec: DataSpec) -> bool:
    if spec.subset == "stsb" or spec.metric in REGRESSION_METRICS:
        return True
    numbers = [float(one.value or 0.0) for one in labels] if _all_numbers(labels) else []
    if spec.metric in RANKING_METRICS and not spec.labels and len({*numbers}) > 2:
        return True  # grades of relevance
    fraction = next((number for number in numbers if number % 1), None)
    return fraction is not None and find(_name(fraction), spec.labels) is None


def _all_numbers(labels: Sequence[Label]) -> bool:
    return not any(isinstance(label.value, str) for label in labels)


def _as_numbers(labels: Sequence[Label]) -> Sequence[Label]:
    """Return the labels as numbers, if all texts among them are numbers, else as they are."""
    texts = {label.value for label in labels if isinstance(label.value, str)}
    if not texts or not all(map(_NUMBER.fullmatch, texts)):
        return labels
    numbers = {text: float(text) for text in texts}
    for label in labels:
        if math.isinf(numbers.get(str(label.value), 0.0)):
            raise QualaError(f"{label.place}: the label must be finite, got {label.value}.")
    return [
        Label(numbers.get(label.value, label.value), label.place)  # type: ignore[arg-type]
        for label in labels
    ]


def _values(labels: Sequence[Label]) -> list[float]:
    for label in labels:
        if isinstance(label.value, str) and not _NUMBER.fullmatch(label.value):
            raise QualaError(
                f"{label.place}: a regression needs numbers as labels, got `{label.value}`."
            )
    return [float(label.value or 0.0) for label in labels]


def _name(value: float | str | None) -> str:
    return f"{value + 0.0:.0f}" if isinstance(value, float) and value % 1 == 0 else str(value)


def _folded(name: str) -> str:
    if _NUMBER.fullmatch(name):
        return _name(float(name))
    # Not at the ends: A- is another grade than A.
    return re.sub(r"(?<=[^\W_])[-_\s]+(?=[^\W_])", "", name.strip()).casefold()


def _are_indices(names: Sequence[str], count: int) -> bool:
    """Return whether all names are numbers of `count` outputs."""
    return {*names} <= {str(index) for index in range(count)}
