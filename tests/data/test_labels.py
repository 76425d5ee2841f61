"""Labels: which are the same, which are none, and the order of the outputs."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from quala.data.features import ClassificationExample
from quala.data.files import Place
from quala.data.labels import find, label_examples, label_of, outputs_of, positive_class
from quala.data.spec import DataSpec
from quala.data.task import Classes, Task, Value
from quala.errors import QualaError

NAN, INF = float("nan"), float("inf")


def spec(**fields: Any) -> DataSpec:
    return DataSpec(task="glue", path="rows.csv", **fields)


def labeled(
    values: list[Any], task: Task | None = None, **fields: Any
) -> tuple[list[float | None], Task]:
    examples = [ClassificationExample(str(row), "a", None) for row in range(len(values))]
    labels = [
        label_of({"label": value}, Place("rows.csv", "line", line))
        for line, value in enumerate(values, start=2)
    ]
    found, task = label_examples(examples, labels, spec(**fields), split="train", task=task)
    return [example.label for example in found], task


@pytest.mark.parametrize(
    ("values", "names", "indices"),
    [
        ([0, 1, 2], ("0", "1", "2"), [0, 1, 2]),
        (["0", "1", "1"], ("0", "1"), [0, 1, 1]),
        ([0.0, 1.0], ("0", "1"), [0, 1]),
        ([Decimal(0), Decimal("1.0")], ("0", "1"), [0, 1]),
        (["0.0", "1.0", "1"], ("0", "1"), [0, 1, 1]),
        ([" 1", "1", "0 "], ("0", "1"), [1, 1, 0]),
        ([True, False], ("False", "True"), [1, 0]),
        ([-0.0, 0, "-0.0", 1], ("0", "1"), [0, 0, 0, 1]),
        (["True", "False"], ("False", "True"), [1, 0]),
        ([5, 1, 4, 2, 3], ("1", "2", "3", "4", "5"), [4, 0, 3, 1, 2]),
        ([0, 7], ("0", "7"), [0, 1]),
        ([10, 9, 2], ("2", "9", "10"), [2, 1, 0]),
        (["10", "9", "2"], ("2", "9", "10"), [2, 1, 0]),
        ([-2, 0, 2], ("-2", "0", "2"), [0, 1, 2]),
        (["007", "008"], ("007", "008"), [0, 1]),
        (["010", "007"], ("007", "010"), [1, 0]),
        (["1_0", "1"], ("1", "1_0"), [1, 0]),
        (["A", "A-", "B"], ("A", "A-", "B"), [0, 1, 2]),
        (["10%", "50%", "10%"], ("10%", "50%"), [0, 1, 0]),
        (["x,y", "1,2"], ("1,2", "x,y"), [1, 0]),
        (["1", "one"], ("1", "one"), [0, 1]),
        ([" good", "good ", "bad"], ("bad", "good"), [1, 1, 0]),
        (["inf", "verb"], ("inf", "verb"), [0, 1]),
    ],
)
def test_labels_are_classes_in_rising_order(
    values: list[Any], names: tuple[str, ...], indices: list[int]
) -> None:
    found, task = labeled(values)
    assert task == Classes(len(names), names=names)
    assert found == indices


def test_many_classes_of_several_examples_are_read() -> None:
    assert labeled([f"intent {row % 77}" for row in range(200)])[1].num_labels == 77
    assert labeled([f"intent {row}" for row in range(20)])[1].num_labels == 20


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([f"id{row}" for row in range(3000)], "at most 1000 different names, got 3000 from id0"),
        ([f"It was film {row}." for row in range(21)], "21 of the names occur once, got 21 from"),
        ([*range(500), 1], "499 of the numbers occur once, got 500 from 0 to 499; `data.metric"),
        (["3,14", "2,71", "3"], "line 2: the labels are numbers with a comma, such as `2,71`"),
        (["1,234,567", "1,000"], "with a comma, such as `1,000`"),
        (["12,5%", "50%"], "with a comma, such as `12,5%`"),
        ([f"{row % 90}%" for row in range(300)], "90 different numbers with a unit, such as `0%`"),
    ],
)
def test_columns_that_are_no_classes_are_refused(values: list[Any], message: str) -> None:
    with pytest.raises(QualaError, match=message):
        labeled(values)
    names = tuple(sorted({str(value) for value in values}))
    assert labeled(values, labels=names)[1].num_labels == len(names)


def test_two_spellings_of_a_label_are_refused_unless_they_are_listed() -> None:
    values = ["positive", "Positive", "negative", "positive "]
    with pytest.raises(QualaError, match="labels `Positive` and `positive` differ in case"):
        labeled(values)
    for names, expected in (
        (("negative", "positive"), ("negative", "positive")),
        (("NEGATIVE", "POSITIVE"), ("Positive", "negative")),
        (("negative", "Positive", "positive"), ("Positive", "negative", "positive")),
    ):
        found, task = labeled(values, labels=names)
        assert isinstance(task, Classes)
        assert task.names == expected
        order = outputs_of(task.names, spec(labels=names), None)
        placed = [names[order.places[int(label or 0)]].casefold() for label in found]
        assert placed == [value.strip().casefold() for value in values]


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        ([0.5, 1.2], [0.5, 1.2]),
        (["0.5", " 1"], [0.5, 1.0]),
        (["-1", "0.5", "1e-3"], [-1, 0.5, 1e-3]),
    ],
)
def test_fractions_are_values(values: list[Any], numbers: list[float]) -> None:
    found, task = labeled(values)
    assert isinstance(task, Value)
    assert found == numbers


def test_fractions_that_are_listed_are_classes() -> None:
    found, task = labeled([1.5, 0.5, "1.50", 2], labels=("0.5", "1.5", "2"))
    assert task == Classes(3, names=("0.5", "1.5", "2"))
    assert found == [1, 0, 1, 2]


def test_a_metric_of_values_makes_whole_numbers_values() -> None:
    found, task = labeled([0, 50, 100], metric="spearman")
    assert task == Value(metrics=("spearman", "pearson_spearman"))
    assert found == [0, 50, 100]


@pytest.mark.parametrize("missing", ["", "  ", "nan", "NaN", None, NAN])
def test_an_empty_cell_is_refused_with_its_place(missing: Any) -> None:
    with pytest.raises(QualaError, match=r"`rows.csv`, line 3 has no label .* 1 of 3 .*out\.$"):
        labeled([0, missing, 1])


@pytest.mark.parametrize("bare", [-1, "-1", -1.0, "-1.0", "", None])
def test_unlabeled_rows_can_be_dropped(bare: Any) -> None:
    with pytest.raises(QualaError, match="2 of 4 rows of `train` are unlabeled"):
        labeled([0, bare, bare, 1])
    assert labeled([0, bare, bare, 1], unlabeled="drop")[0] == [0, 1]


def test_rows_without_a_label_do_not_hide_among_names() -> None:
    with pytest.raises(QualaError, match="line 4 has no label"):
        labeled(["entailment", "neutral", "-1"])


@pytest.mark.parametrize("choice", ["refuse", "drop"])
@pytest.mark.parametrize("task", [None, Classes(2, names=("0", "1")), Value()])
def test_a_split_without_any_label_is_refused(choice: str, task: Task | None) -> None:
    with pytest.raises(QualaError, match="unlabeled split"):
        labeled([-1, -1], task, unlabeled=choice)


def test_minus_one_is_a_class_where_it_is_listed() -> None:
    with pytest.raises(QualaError, match=r"`data.labels` lists a -1 that is a class"):
        labeled([-1, 1, 1])
    assert labeled([-1, 1, 1], labels=("-1", "1"))[0] == [0, 1, 1]


@pytest.mark.parametrize("value", [INF, -INF, "inf", "1e999"])
def test_infinity_is_refused(value: Any) -> None:
    with pytest.raises(QualaError, match=r"line 3.* must be finite"):
        labeled(["0", value])


def test_a_strange_label_is_refused_with_its_place() -> None:
    task = labeled(["bad", "good"])[1]
    assert labeled(["Good", "bad"], task)[0] == [1, 0]
    with pytest.raises(QualaError, match=r"line 3: label `fine` is not one of .*: bad, good"):
        labeled(["bad", "fine"], task)
    with pytest.raises(QualaError, match=r"line 2: label `0.5` is not one"):
        labeled([0.5], Classes(2, names=("0", "1")))


def test_a_sign_at_the_end_of_a_name_counts() -> None:
    with pytest.raises(QualaError, match="label `A-` is not one"):
        labeled(["A-"], Classes(2, names=("A", "B")))


def test_texts_are_no_values() -> None:
    with pytest.raises(QualaError, match="line 3: a regression needs numbers"):
        labeled(["1", "x"], subset="stsb")
    with pytest.raises(QualaError, match="line 2: a regression needs numbers"):
        labeled(["x"], Value())


@pytest.mark.parametrize(
    ("fields", "values", "message"),
    [
        ({"metric": "accuracy"}, [0.5, 1.0], "labels that are numbers must be one of"),
        ({"subset": "stsb", "metric": "f1"}, [1, 2], "labels that are numbers must be one of"),
        ({"labels": ("a", "b")}, [0.5, 1.0], "`data.labels` is for classes"),
        ({}, list(range(1001)), "at most 1000 different numbers, got 1001 from 0 to 1000"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    fields: dict[str, Any], values: list[Any], message: str
) -> None:
    with pytest.raises(QualaError, match=message):
        labeled(values, **fields)


@pytest.mark.parametrize(
    ("label", "names", "index"),
    [
        ("a", ("b", "a"), 1),
        ("Not Equivalent", ("equivalent", "not_equivalent"), 1),
        ("1.0", ("0", "1"), 1),
        ("True", ("0", "1"), 1),
        ("false", ("1", "0"), 1),
        ("True", ("1", "2"), None),
        ("True", ("yes", "no"), 0),
        ("false", ("yes", "no"), 1),
        ("false", ("FALSE", "True"), 0),
        ("True", ("yes", "no", "maybe"), None),
        ("True", ("spam", "ham"), None),
        ("0", ("False", "True"), None),
        ("A", ("a", "Ａ", "A"), 2),
        ("pos", ("Pos", "POS"), None),
        ("1", ("-1", "2"), None),
        ("+", ("-", "+"), 1),
        ("c", ("a", "b"), None),
    ],
)
def test_a_label_is_found_by_its_name(
    label: str, names: tuple[str, ...], index: int | None
) -> None:
    assert find(label, names) == index


@pytest.mark.parametrize(
    ("own", "model", "labels", "names", "spelled", "places"),
    [
        (("a", "b"), None, (), ("a", "b"), ("a", "b"), (0, 1)),
        (("neg", "pos"), ("pos", "neg"), (), ("pos", "neg"), ("pos", "neg"), (1, 0)),
        (("NEG", "POS"), ("pos", "neg"), (), ("pos", "neg"), ("POS", "NEG"), (1, 0)),
        (("0", "1"), ("pos", "neg"), (), ("pos", "neg"), ("0", "1"), (0, 1)),
        (("0", "2"), ("e", "n", "c"), (), ("e", "n", "c"), ("0", "1", "2"), (0, 2)),
        (("c", "e"), ("e", "n", "c"), (), ("e", "n", "c"), ("e", "n", "c"), (2, 0)),
        (("1", "2"), ("0", "1", "2"), (), ("0", "1", "2"), ("0", "1", "2"), (1, 2)),
        (("neg", "pos"), None, ("pos", "neg"), ("pos", "neg"), ("pos", "neg"), (1, 0)),
        (("0", "1"), None, ("neg", "pos"), ("neg", "pos"), ("0", "1"), (0, 1)),
        (("neg", "pos"), ("0", "1"), ("pos", "neg"), ("pos", "neg"), ("pos", "neg"), (1, 0)),
        (("0", "1"), ("Neg", "Pos"), ("neg", "pos"), ("neg", "pos"), ("0", "1"), (0, 1)),
        (("False", "True"), ("true", "false"), (), ("true", "false"), ("True", "False"), (1, 0)),
        (("False", "True"), ("0", "1"), (), ("0", "1"), ("False", "True"), (0, 1)),
        (("False", "True"), ("yes", "no"), (), ("yes", "no"), ("True", "False"), (1, 0)),
    ],
)
def test_classes_have_the_order_of_the_model(
    own: tuple[str, ...],
    model: tuple[str, ...] | None,
    labels: tuple[str, ...],
    names: tuple[str, ...],
    spelled: tuple[str, ...],
    places: tuple[int, ...],
) -> None:
    found = outputs_of(own, spec(labels=labels), model)
    assert (found.names, found.spelled, found.places) == (names, spelled, places)


STARS = ("1 star", "2 stars", "3 stars")


@pytest.mark.parametrize(
    ("own", "model", "called", "places"),
    [
        (("0", "1", "2"), ("C", "N", "E"), ("e", "n", "c"), (2, 1, 0)),
        (("0", "2"), ("C", "N", "E"), ("e", "n", "c"), (2, 0)),
        (("0", "1"), ("bad", "good"), ("neg", "pos"), (0, 1)),
        (("0", "1"), ("1", "0"), ("neg", "pos"), (1, 0)),
        (("1", "2", "3"), STARS, (), (0, 1, 2)),
        (("1", "3"), STARS[::-1], (), (2, 0)),
        (("0", "1", "2"), STARS, (), (0, 1, 2)),
        (("0", "1"), ("LABEL_1", "LABEL_0"), (), (1, 0)),
    ],
)
def test_numbers_are_found_by_the_names_that_data_or_model_have_for_them(
    own: tuple[str, ...], model: tuple[str, ...], called: tuple[str, ...], places: tuple[int, ...]
) -> None:
    found = outputs_of(own, spec(), model, called)
    assert (found.names, found.places) == (model, places)
    assert [found.spelled[place] for place in places] == [*own]


@pytest.mark.parametrize(
    ("own", "called"), [(("1", "2"), ()), (("2", "3", "4"), ()), (("0", "1"), ("1 star", "none"))]
)
def test_numbers_that_may_be_other_classes_are_refused(
    own: tuple[str, ...], called: tuple[str, ...]
) -> None:
    with pytest.raises(QualaError, match="those of the model 1 star, 2 stars, 3 stars"):
        outputs_of(own, spec(), STARS, called)


def test_listed_labels_hold_for_numbers_whatever_their_columns_call_them() -> None:
    assert outputs_of(("0", "1"), spec(labels=("b", "a")), None, ("a", "b")).places == (0, 1)


@pytest.mark.parametrize(
    ("own", "model", "labels", "message"),
    [
        (("a", "b"), ("c", "b"), (), "The data's labels are a, b, those of the model c, b"),
        (("a", "b"), ("0", "1"), (), "`data.labels` names the outputs"),
        (("0", "1"), ("1", "2"), (), "those of the model 1, 2"),
        (("0", "1", "2"), ("a", "b"), (), "those of the model a, b"),
        (("1", "2"), ("one star", "two", "three"), (), "or their numbers from 0"),
        (("a", "b", "c"), None, ("a", "b"), "those of `data.labels` a, b"),
        (("Pos", "pos"), ("POS", "NEG"), (), "those of the model POS, NEG"),
        (("a", "b"), ("a", "b"), ("b", "a"), "the same in the same order"),
        (("a", "b"), ("0", "1", "2"), ("a", "b"), "the same in the same order"),
    ],
)
def test_labels_that_the_model_does_not_have_are_refused(
    own: tuple[str, ...],
    model: tuple[str, ...] | None,
    labels: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises(QualaError, match=message):
        outputs_of(own, spec(labels=labels), model)


@pytest.mark.parametrize(
    ("own", "model", "f1_class", "positive"),
    [
        (("0", "1"), None, None, 1),
        (("-1", "1"), None, None, 1),
        (("equivalent", "not_equivalent"), None, None, 0),
        (("entailment", "not_entailment"), None, None, 0),
        (("False", "True"), None, None, 1),
        (("no", "yes"), None, None, 1),
        (("0", "1"), ("equivalent", "not_equivalent"), None, 0),
        (("0", "1"), ("ham", "spam"), None, 1),
        (("ham", "spam"), None, "spam", 1),
        (("ham", "spam"), None, "Ham", 0),
        (("ham", "spam"), None, "0", 0),
        (("1", "2"), None, "1", 0),
        (("1", "2"), None, "2", 1),
    ],
)
def test_the_class_of_f1(
    own: tuple[str, ...], model: tuple[str, ...] | None, f1_class: str | None, positive: int
) -> None:
    fields = spec(f1_class=f1_class)
    assert positive_class(outputs_of(own, fields, model), fields) == positive


@pytest.mark.parametrize(
    ("own", "f1_class", "message"),
    [
        (("ham", "spam"), None, "`data.f1_class=ham` or `data.f1_class=spam`"),
        (("1", "2"), None, "`data.f1_class=1` or"),
        (("0", "7"), None, "`data.f1_class=0` or"),
        (("true", "yes"), None, "`data.f1_class=true` or"),
        (("ham", "spam"), "eggs", "must be one of ham, spam, got eggs"),
        (("a", "b", "c"), "a", "for two classes, the data have 3 .* `data.metric=f1_macro`"),
    ],
)
def test_an_unknown_class_of_f1_is_asked_for(
    own: tuple[str, ...], f1_class: str | None, message: str
) -> None:
    fields = spec(f1_class=f1_class)
    with pytest.raises(QualaError, match=message):
        positive_class(outputs_of(own, fields, None), fields)
