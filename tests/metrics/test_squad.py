from __future__ import annotations

import math
import random
from dataclasses import dataclass

import pytest

from quala.errors import QualaError
from quala.metrics.squad import (
    answer_exact,
    answer_f1,
    best_null_threshold,
    evaluate_null_predictions,
    evaluate_predictions,
    normalize_answer,
)

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


def official_v2(
    golds: dict[str, list[str]],
    said: dict[str, str],
    chances: dict[str, float] | None,
    threshold: float,
) -> dict[str, float]:
    """The published definition of SQuAD 2.0's scores, one question and one loop at a time."""

    def overlap(gold: str, text: str) -> float:
        gold_words, words = normalize_answer(gold).split(), normalize_answer(text).split()
        if not gold_words or not words:
            return float(gold_words == words)
        same = sum(min(gold_words.count(one), words.count(one)) for one in {*words})
        if not same:
            return 0.0
        precision, recall = same / len(words), same / len(gold_words)
        return 2 * precision * recall / (precision + recall)

    exact, f1 = {}, {}
    for name, answers in golds.items():
        true = [one for one in answers if normalize_answer(one)] or [""]
        exact[name] = max(
            float(normalize_answer(one) == normalize_answer(said[name])) for one in true
        )
        f1[name] = max(overlap(one, said[name]) for one in true)
    found: dict[str, float] = {}
    for key, raw in (("exact_match", exact), ("f1", f1)):
        final = dict(raw)
        for name in golds:
            if chances is not None and chances[name] > threshold:
                final[name] = float(not golds[name])
        for part, members in (
            ("", list(golds)),
            ("has_answer_", [one for one in golds if golds[one]]),
            ("no_answer_", [one for one in golds if not golds[one]]),
        ):
            found[f"{part}total"] = len(members)
            if members:
                found[part + key] = 100 * sum(final[one] for one in members) / len(members)
        if chances is not None:
            score = best = sum(not golds[one] for one in golds)
            best_at = 0.0
            for name in sorted(chances, key=lambda one: chances[one]):
                if golds[name]:
                    score += raw[name]
                elif said[name]:
                    score -= 1
                if score > best:
                    best, best_at = score, chances[name]
            found[f"best_{key}"] = 100 * best / len(golds)
            found[f"best_{key}_threshold"] = best_at
    return found


@pytest.mark.parametrize("chances", [False, True])
def test_scores_with_null_answers_are_the_published_ones(chances: bool) -> None:
    rng = random.Random(1)
    for _ in range(60):
        golds = {
            str(n): tuple(random_text(rng) for _ in range(rng.randint(1, 3)))
            if rng.random() < 0.6
            else ()
            for n in range(rng.randint(1, 12))
        }
        said = {
            name: rng.choice(["", "a", random_text(rng), answers[0] if answers else ""])
            for name, answers in golds.items()
        }
        # few values, so that some are equal
        odds = {name: rng.choice([0.1, 0.4, 0.7, 1.5, -2.0]) for name in golds}
        threshold = rng.choice([1.0, 0.4])
        expected = official_v2(
            {name: list(one) for name, one in golds.items()},
            said,
            odds if chances else None,
            threshold,
        )
        found = evaluate_null_predictions(
            [Question(name, answers) for name, answers in golds.items()],
            said,
            na_probs=odds if chances else None,
            na_prob_threshold=threshold,
        )
        assert found.pop("missing") == 0
        assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "golds", "exact", "f1"),
    [
        ("", (), 1.0, 1.0),
        ("the", (), 1.0, 1.0),  # nothing is left of it, which is no answer
        ("cat", (), 0.0, 0.0),
        ("", ("cat",), 0.0, 0.0),
        ("", ("the",), 1.0, 1.0),  # nor of the gold answer
        ("The cat!", ("a cat", "dog"), 1.0, 1.0),
        ("cat", ("the", "cat dog"), 0.0, 2 / 3),
    ],
)
def test_null_answers_by_hand(
    prediction: str, golds: tuple[str, ...], exact: float, f1: float
) -> None:
    assert answer_exact(prediction, golds, null=True) == exact
    assert answer_f1(prediction, golds, null=True) == pytest.approx(f1)


def test_a_missing_prediction_is_wrong_even_where_there_is_no_answer() -> None:
    found = evaluate_null_predictions([Question("a", ()), Question("b", ("cat",))], {"b": "cat"})
    assert (found["f1"], found["no_answer_f1"], found["missing"]) == (50.0, 0.0, 1)


def test_probabilities_must_be_there_for_every_prediction() -> None:
    with pytest.raises(QualaError, match="lack the question `b`"):
        evaluate_null_predictions([Question("b", ())], {"b": ""}, na_probs={"a": 0.1})
    with pytest.raises(QualaError, match="at least one question"):
        evaluate_null_predictions([], {})


def test_the_tuned_threshold_is_the_best_of_all() -> None:
    rng = random.Random(2)
    for _ in range(200):
        count = rng.randint(1, 8)
        ahead = [rng.choice([-3.0, -1.0, 0.5, 2.0, math.inf]) for _ in range(count)]
        null = [float(rng.random() < 0.5) for _ in range(count)]
        answered = [0.0 if one else rng.random() for one in null]
        answered = [
            none if math.isinf(far) else one
            for far, none, one in zip(ahead, null, answered, strict=True)
        ]

        def total(threshold: float) -> float:
            each = zip(ahead, answered, null, strict=True)  # noqa: B023
            return sum(none if far > threshold else one for far, one, none in each)

        best = best_null_threshold(ahead, answered, null)
        assert math.isfinite(best)
        assert total(best) == pytest.approx(max(map(total, [*ahead, -9.0])))
    assert best_null_threshold([], [], []) == 0.0


def test_where_no_answer_is_always_best_none_is_given() -> None:
    assert best_null_threshold([-2.0, 1.0], [0.0, 0.0], [1.0, 1.0]) < -2.0
