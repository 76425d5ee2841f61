from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from quala.errors import QualaError
from quala.metrics.squad import answer_exact, answer_f1, evaluate_predictions, normalize_answer

WORDS = [
    "The",
    "a",
    "an",
    "cat",
    "Cat.",
    "U.S.",
    "well-known",
    "1,000",
    "été",
    "«oui»",
    "10%",
    "of",
]


@dataclass(frozen=True)
class Question:
    id: str
    answers: tuple[str, ...]


def random_text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 6)))


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat's\tpyjamas!", "cats pyjamas"),
        ("U.S. and the U.N.", "us and un"),
        ("an-other", "another"),
        ("theatre", "theatre"),
        ("a", ""),
        ("«Ça» – naïve", "«ça» – naïve"),
        ("x\u00a0y", "x y"),
        ("$1,000.50", "100050"),
        ("İstanbul", "i̇stanbul"),
    ],
)
def test_normalization_is_the_official_one(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


def test_f1_counts_repeated_words() -> None:
    assert answer_f1("cat cat dog", ["cat dog dog"]) == pytest.approx(2 / 3)


def test_f1_takes_the_best_gold_answer() -> None:
    assert answer_f1("red cat", ["dog", "red cat", "cat"]) == 1.0


def test_answers_of_articles_only_match_exactly_without_overlap() -> None:
    assert (answer_exact("the", ["a"]), answer_f1("the", ["a"])) == (1.0, 0.0)


def test_scores_agree_with_torchmetrics_on_random_text() -> None:
    from torchmetrics.functional.text import squad

    rng = random.Random(0)
    golds = [tuple(f"{random_text(rng)} cat" for _ in range(3)) for _ in range(200)]
    questions = [Question(str(index), gold) for index, gold in enumerate(golds)]
    predictions = {question.id: f"{random_text(rng)} of" for question in questions}
    theirs = squad(
        [{"id": key, "prediction_text": text} for key, text in predictions.items()],
        [
            {"id": q.id, "answers": {"text": list(q.answers), "answer_start": [0, 0, 0]}}
            for q in questions
        ],
    )
    ours = evaluate_predictions(questions, predictions)
    assert ours.exact_match == pytest.approx(float(theirs["exact_match"]), abs=1e-4)
    assert ours.f1 == pytest.approx(float(theirs["f1"]), abs=1e-4)


def test_missing_predictions_are_wrong_and_counted() -> None:
    score = evaluate_predictions([Question("1", ("x",)), Question("2", ("y",))], {"1": "x"})
    assert (score.exact_match, score.f1, score.total, score.missing) == (50.0, 50.0, 2, 1)


def test_no_questions_are_refused() -> None:
    with pytest.raises(QualaError, match="at least one question"):
        evaluate_predictions([], {})
