"""The card of an export with sub-networks, and what budgets choose among them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from quala.cost import macs, part_of, preset
from quala.errors import QualaError
from quala.lengths import LengthConfig, Units
from quala.runtime.card import Budget, Card, Point

ARCH, LONGEST = preset("minilm-l6-h384"), 128
FULL = LengthConfig.full(layers=6, sequence_length=LONGEST)
HALF = (Units(6, 768), None, Units(6, 768), Units(6, 768), None, Units(6, 768))
SHORT = LengthConfig((128, 128, 64, 64, 64, 40), LONGEST, HALF)
CARD = Card(
    name="toy", task="question-answering", metric="f1", precision="fp32", significance="question",
    sequence_length=LONGEST, doc_stride=32, max_question_length=64, max_answer_length=30,
    n_best=20, arch=ARCH,
    front=tuple(
        replace(Point.unmeasured(ARCH, lengths), score=score)
        for lengths, score in (
            (FULL, 90.0),
            (LengthConfig((128, 100, 64, 64, 64, 40), LONGEST), 80.0),
            (FULL.of(HALF), 85.0),
            (SHORT, 70.0),
        )
    ),
)  # fmt: skip


def test_a_card_with_sub_networks_reads_back() -> None:
    values = json.loads(json.dumps(CARD.to_json()))
    assert [point.get("layers") for point in values["front"]] == [None, None, *[SHORT_NAME] * 2]
    found = Card._from_json(values)
    found._check()
    assert found == CARD


SHORT_NAME = "6x768,-,6x768,6x768,-,6x768"


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda front: front[2].update(layers="13x768"), "12 heads"),
        (lambda front: front[2].update(layers="0x768"), "at least 1"),
        (lambda front: front[2].update(layers="6x768,6x768"), "Expected units of 6 layers"),
        (lambda front: front[2].update(layers=7), "must be text"),
        (lambda front: front[2].update(layers="-"), "at least one layer"),
        (lambda front: front[0].update(layers="6x768"), "must be the full length"),
        (lambda front: front[1].update(layers=SHORT_NAME), "left out drops no tokens"),
    ],
)
def test_damaged_layers_are_found(damage: Callable[[Any], None], match: str) -> None:
    values = json.loads(json.dumps(CARD.to_json()))
    damage(values["front"])
    with pytest.raises(QualaError, match=match):
        Card._from_json(values)._check()


def test_the_work_of_a_point_is_that_of_its_layers() -> None:
    small, kept = part_of(ARCH, HALF), SHORT.extracted.kept(50)
    assert CARD.front[3].macs(ARCH, [50, 50, 128]) == 2 * macs(small, kept, 50) + macs(
        small, (128, 64, 64, 40), 128
    )


def test_a_budget_chooses_among_lengths_and_layers() -> None:
    full = CARD.full.macs(ARCH, [128])
    share = CARD.front[2].macs(ARCH, [128]) / full
    assert CARD.choose(Budget(keep=share), [128])[0] == CARD.front[2]  # scores more than shorter
    assert CARD.choose(Budget(macs=CARD.front[3].macs(ARCH, [128])), [128])[0] == CARD.front[3]
    timed = [replace(one, ms={128: 4.0 - place}) for place, one in enumerate(CARD.front)]
    assert replace(CARD, front=tuple(timed)).choose(Budget(ms=2.5), [128])[0] == timed[2]


def test_layers_may_be_asked_for() -> None:
    def chosen(**asked: Any) -> LengthConfig:
        return CARD.choose(Budget(**asked), [128])[0].lengths

    assert chosen(layers=SHORT_NAME) == FULL.of(HALF)
    assert chosen(lengths=SHORT.lengths, layers=SHORT_NAME) == SHORT
    assert chosen(lengths=FULL.lengths, layers="12x1536") == FULL


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"layers": "6x768"}, f"none that this export was made for: {SHORT_NAME}"),
        ({"layers": "6x768,-"}, "Expected units of 6 layers"),
        ({"layers": "x"}, "HEADSxNEURONS"),
        ({"layers": ""}, "must be text"),
        ({"layers": 6}, "must be text"),
        (
            {"layers": SHORT_NAME, "keep": 0.5},
            "is one of ms, macs, keep, lengths; got keep, layers",
        ),
        ({"layers": SHORT_NAME, "lengths": (128, 64, 64, 64, 64, 40)}, "drops no tokens"),
    ],
)
def test_layers_that_cannot_be_asked_for(asked: dict[str, Any], match: str) -> None:
    with pytest.raises(QualaError, match=match):
        CARD.choose(Budget(**asked), [128])


def test_an_export_of_one_structure_says_so() -> None:
    whole = replace(CARD, front=CARD.front[:2])
    with pytest.raises(QualaError, match="made for: no smaller ones"):
        whole.choose(Budget(layers="6x768"), [128])
