"""The embedded set is well formed, and only reading answers it."""

from __future__ import annotations

import hashlib
import re
import statistics
from collections.abc import Callable
from dataclasses import astuple
from random import Random

import pytest
from data.demo_generator import generate
from data.demo_relations import DOMAINS
from data.demo_words import TEST_NAMES, TRAIN_NAMES

from quala.data.demo import demo_examples
from quala.data.features import QAExample
from quala.metrics.squad import evaluate_predictions

TRAIN, TEST = map(list, demo_examples())
CAPITALISED = re.compile(r"(?:[A-Z][\w'&]*)(?: (?:[A-Z&][\w'&]*|and|of|the)(?= [A-Z]|\b))*")
COMMON = sorted({e.answers[0] for e in TRAIN + TEST if e.answers[0][0].islower()})
NUMBER = re.compile(r"[\d,]*\d(?: [A-Za-z]+)?")


def _f1(guess: Callable[[QAExample, Random], str]) -> float:
    rng = Random(0)
    predictions = {example.id: guess(example, rng) for example in TEST}
    return evaluate_predictions(TEST, predictions).f1


def test_sizes() -> None:
    assert len(TRAIN) >= 2000
    assert len(TEST) >= 400


@pytest.mark.parametrize("examples", [TRAIN, TEST])
def test_answers_stand_where_they_say(examples: list[QAExample]) -> None:
    for example in examples:
        answer, start = example.answers[0], example.answer_starts[0]
        assert example.context[start : start + len(answer)] == answer


def test_the_same_set_on_every_machine() -> None:
    digest = hashlib.sha256(repr([astuple(e) for e in TRAIN + TEST]).encode()).hexdigest()
    assert digest[:16] == "a464f75fb5c359b6"


def test_the_file_is_what_the_generator_makes() -> None:
    assert generate() == (TRAIN, TEST)


def test_ids_are_unique() -> None:
    assert len({example.id for example in TRAIN + TEST}) == len(TRAIN) + len(TEST)


def test_halves_share_no_title_and_no_context() -> None:
    assert not {e.title for e in TRAIN} & {e.title for e in TEST}
    assert not {e.context for e in TRAIN} & {e.context for e in TEST}


@pytest.mark.parametrize("part", TRAIN_NAMES.__dataclass_fields__)
def test_halves_share_no_name(part: str) -> None:
    assert not set(getattr(TRAIN_NAMES, part)) & set(getattr(TEST_NAMES, part))


def test_articles_hold_several_questions() -> None:
    sizes = [sum(e.title == title for e in TEST) for title in {e.title for e in TEST}]
    assert set(sizes) == {8}


def test_no_question_is_asked_twice_of_a_context() -> None:
    for examples in (TRAIN, TEST):
        assert len({(e.context, e.question) for e in examples}) == len(examples)


def test_contexts_vary_in_length() -> None:
    words = [len(example.context.split()) for example in TRAIN]
    assert max(words) > 2 * min(words)
    assert 40 < statistics.mean(words) < 60


def test_every_relation_has_three_phrasings() -> None:
    relations = [relation for domain in DOMAINS.values() for relation in domain]
    assert len(relations) >= 12
    assert all(
        len(asked) >= 3
        for relation in relations
        for asked in (relation.statements, relation.ask_value, relation.ask_subject)
    )


def _first_capitalised(example: QAExample, _: Random) -> str:
    found = CAPITALISED.search(example.context)
    return found.group() if found else ""


def _random_of_the_same_shape(example: QAExample, rng: Random) -> str:
    """Guess with an oracle for the kind of answer: a number, a name or common words."""
    return rng.choice(_same_shape(example))


def _same_shape(example: QAExample) -> list[str]:
    answer = example.answers[0]
    if answer[0].isdigit():
        return NUMBER.findall(example.context)
    if answer[0].isupper():
        return CAPITALISED.findall(example.context)
    return [text for text in COMMON if text in example.context]


def _answer_of_a_neighbor(example: QAExample, rng: Random) -> str:
    """Guess with an oracle for all the spans that answer some question of this context."""
    return rng.choice(sorted({e.answers[0] for e in TEST if e.context == example.context}))


@pytest.mark.parametrize(
    "guess", [_first_capitalised, _random_of_the_same_shape, _answer_of_a_neighbor]
)
def test_guessing_scores_low(guess: Callable[[QAExample, Random], str]) -> None:
    assert _f1(guess) < 45
