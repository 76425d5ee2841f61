"""Entities are those of seqeval, and so are their scores."""

from __future__ import annotations

import random

import numpy as np
import pytest

from quala.metrics.classes import class_table, precision_recall_f1
from quala.metrics.entities import are_entity_tags, entity_counts, find_entities

NAMES = ("O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "I-LOC", "S-LOC", "B-X-Y", "I-X-Y")


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-A I-A O B-A", [("A", 0, 2), ("A", 3, 4)]),
        ("I-A I-A B-A", [("A", 0, 2), ("A", 2, 3)]),  # IOB1
        ("B-A I-B", [("A", 0, 1), ("B", 1, 2)]),
        ("S-A B-A E-A E-A", [("A", 0, 1), ("A", 1, 3), ("A", 3, 4)]),
        ("B-A L-A U-B", [("A", 0, 2), ("B", 2, 3)]),  # BILOU
        ("B-A M-A E-A", [("A", 0, 3)]),  # BMES
        ("O O", []),
    ],
)
def test_entities_of_each_scheme(tags: str, found: list[tuple[str, int, int]]) -> None:
    assert [tuple(one) for one in find_entities(tags.split())] == found


def test_they_are_those_of_seqeval() -> None:
    labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    draw = random.Random(0)
    for _ in range(500):
        tags = [draw.choice(NAMES) for _ in range(draw.randint(0, 9))]
        theirs = [(kind, start, end + 1) for kind, start, end in labeling.get_entities(tags)]
        assert [tuple(one) for one in find_entities(tags)] == theirs


def test_scores_are_those_of_seqeval() -> None:
    labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    draw = random.Random(1)
    gold = [[draw.choice(NAMES) for _ in range(8)] for _ in range(60)]
    ours = [[draw.choice(NAMES) if draw.random() < 0.3 else one for one in row] for row in gold]
    kinds, counts = entity_counts(ours, gold)
    theirs = (labeling.precision_score, labeling.recall_score, labeling.f1_score)
    expected = [score(gold, ours) for score in theirs]
    assert [*precision_recall_f1(counts.sum(axis=(0, 1)))] == pytest.approx(expected)
    table = class_table(kinds, counts.sum(axis=0))
    report = labeling.classification_report(gold, ours, output_dict=True)
    for row in table:
        named = report[row["class"]]
        found = [row["precision"] / 100, row["recall"] / 100, row["f1"] / 100, row["support"]]
        assert found == pytest.approx(
            [named[key] for key in ("precision", "recall", "f1-score", "support")]
        )


def test_a_kind_that_is_never_predicted_scores_0() -> None:
    _, counts = entity_counts([["O", "O"]], [["B-A", "O"]])
    assert np.array(precision_recall_f1(counts.sum(axis=(0, 1)))).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (("O", "B-A"), True),
        (("S-A", "E-A"), True),
        (("NOUN", "VERB"), False),
        (("O",), False),
        (("O", "B-"), False),
        (("BI-A", "O"), False),
    ],
)
def test_which_tags_mark_entities(names: tuple[str, ...], known: bool) -> None:
    assert are_entity_tags(names) is known
