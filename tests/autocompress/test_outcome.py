"""The loss against the user's own model, paired, and what can be promised of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from quala.autocompress import outcome
from quala.autocompress.outcome import Compared, compared, within_budget, within_loss
from quala.data.features import ClassificationExample, TaggedExample
from quala.data.task import Classes, Task, Value
from quala.data.task_embed import Embedding
from quala.data.task_tags import Tags
from quala.metrics.interval import Sample
from quala.results import Latency, Row

EXAMPLES = 400


def row(model: str, score: float, ms: float, **options: Any) -> Row:
    half = 3.0
    return Row(
        model=model, precision="fp32" if model == "fine-tuned" else "int8", size_bytes=2**20,
        tokens=options.pop("tokens", "full"), macs_padded=10, macs_mean=10.0, score=score,
        metric="accuracy", examples=EXAMPLES, interval=(score - half, score + half),
        latency_ms=Latency(ms, ms, ms), **options,
    )  # fmt: skip


OWN = row("fine-tuned", 90.0, 10.0, role="baseline")
FULL = row("compressed", 89.5, 5.0, role="full")
SHORT = row("compressed", 88.0, 3.0, role="chosen", tokens="8,4", lengths=(8, 4))
POINTS = [Compared(FULL, 0.5, (-0.4, 1.4)), Compared(SHORT, 2.0, (0.6, 3.4))]


def written(folder: Path, one: Row, said: list[str]) -> None:
    folder.joinpath("predictions").mkdir(exist_ok=True)
    name = f"{one.model} {one.tokens}".replace(" ", "_").replace(",", "-")
    text = json.dumps({str(number): label for number, label in enumerate(said)})
    (folder / "predictions" / f"{name}.json").write_text(text)


def opened(task: Task, labels: list[Any]) -> Any:
    examples = [
        ClassificationExample(id=str(number), text="a", text_pair=None, label=label)
        for number, label in enumerate(labels)
    ]
    data = SimpleNamespace(task=task, test=SimpleNamespace(examples=examples))
    return data


def test_the_loss_is_of_the_same_examples(tmp_path: Path) -> None:
    gold = [number % 2 for number in range(EXAMPLES)]
    own, short = list(gold), list(gold)
    for place in range(40):
        own[place] = short[place] = 1 - gold[place]  # both wrong: no loss
    for place in range(40, 48):
        short[place] = 1 - gold[place]
    names = ("bad", "good")
    written(tmp_path, OWN, [names[one] for one in own])
    written(tmp_path, SHORT, [names[one] for one in short])
    data = opened(Classes(2, metrics=("accuracy",), names=names), gold)
    (found,) = compared([OWN, SHORT], tmp_path, data)
    right = [np.where(np.array(one) == gold, 100.0, 0.0) for one in (own, short)]
    assert found.bounds == Sample(right[1], EXAMPLES).loss(Sample(right[0], EXAMPLES))
    assert found.lost == 2.0
    assert found.bounds is not None
    apart = outcome._apart(SHORT, OWN)
    assert apart is not None
    assert apart[1] - apart[0] > 1.5 * (found.bounds[1] - found.bounds[0])


@pytest.mark.parametrize("task", [Value(metrics=("pearson",)), Embedding(metrics=("pearson",))])
def test_a_correlation_is_compared_by_resamples(tmp_path: Path, task: Task) -> None:
    draw = np.random.default_rng(0)
    gold = draw.normal(size=EXAMPLES)
    own = [replace(one, metric="pearson") for one in (OWN, SHORT)]
    for one, noise in zip(own, (0.1, 0.5), strict=True):
        written(tmp_path, one, [str(v) for v in gold + noise * draw.normal(size=EXAMPLES)])
    data = opened(task, gold.tolist())
    (found,) = compared(own, tmp_path, data)
    assert found.bounds is not None
    assert 0 < found.bounds[0] < found.bounds[1]


def test_the_entities_of_the_same_sentences_are_compared(tmp_path: Path) -> None:
    tags = Tags(3, names=("O", "B-A", "I-A"))
    examples = [TaggedExample(str(n), ("a", "b", "c"), (1, 2, 0)) for n in range(EXAMPLES)]
    data: Any = SimpleNamespace(task=tags, test=SimpleNamespace(examples=examples))
    own, short = (replace(one, metric="f1") for one in (OWN, SHORT))
    written(tmp_path, own, ["B-A I-A O"] * EXAMPLES)
    written(tmp_path, short, ["B-A I-A O"] * (EXAMPLES - 40) + ["B-A O O"] * 40)
    (found,) = compared([own, short], tmp_path, data)
    assert found.bounds is not None
    assert 5 < found.bounds[0] < 10 < found.bounds[1] < 15


def test_a_loss_that_holds_is_promised() -> None:
    found = within_loss(OWN, POINTS, 4.0)
    assert found.kept
    assert found.chosen.row is SHORT
    assert found.said == (
        "`--max-loss 4` holds: it loses 2.00 points against your model (95 % interval of the "
        "loss: 0.6 to 3.4).",
    )


def test_few_examples_promise_what_they_can() -> None:
    found = within_loss(OWN, POINTS, 1.0)
    assert not found.kept
    assert found.said == (
        "The 400 test examples are too few to promise `--max-loss 1`: it loses 2.00 points "
        "against your model (95 % interval of the loss: 0.6 to 3.4).",
        "The smallest loss that they can promise is 1.4 points, at full length.",
    )


def test_a_loss_that_is_surely_above_is_said_so() -> None:
    found = within_loss(OWN, POINTS, 0.5)
    assert "`--max-loss 0.5` does not hold on the 400 test examples" in found.said[0]


def test_the_budget_takes_the_best_point_within() -> None:
    assert within_budget(OWN, POINTS, 6.0).chosen.row is FULL
    found = within_budget(OWN, POINTS, 4.0)
    assert found.kept
    assert found.chosen.row is SHORT
    assert found.said[0].startswith("`--budget-ms 4` is kept at the lengths 8,4")


def test_a_budget_out_of_reach_says_what_is_in_reach() -> None:
    found = within_budget(OWN, POINTS, 2.0)
    assert not found.kept
    assert found.chosen.row is SHORT
    assert "the fastest point takes 3.00 ms, at the lengths 8,4" in found.said[0]
