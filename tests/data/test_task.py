from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from quala.data.features import Batch, FeatureSet, QAExample
from quala.data.task import Classes, Outcome, Span, Value, task_of
from quala.errors import QualaError
from quala.metrics.squad import NULL_METRICS

SPANS = Span()


def batch(labels: torch.Tensor, lengths: tuple[int, ...] = (5, 3)) -> Batch:
    width = max(lengths)
    mask = (torch.arange(width)[None] < torch.tensor(lengths)[:, None]).long()
    return Batch(
        input_ids=mask,
        attention_mask=mask,
        segment_ids=mask,
        feature=torch.arange(len(lengths)),
        labels=labels,
    )


def test_padding_has_no_probability() -> None:
    logits = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    mask = batch(torch.zeros(2, 2).long())["attention_mask"]
    shares = SPANS.distributions(logits, mask).softmax(-1)
    assert shares.shape == (2, 2, 5)
    assert torch.equal(shares[1, :, 3:], torch.zeros(2, 2))


def test_loss_of_spans_is_the_mean_of_start_and_end() -> None:
    logits = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 4], [0, 2]])
    start = functional.cross_entropy(logits[:1, :, 0], labels[:1, 0])
    end = functional.cross_entropy(logits[:1, :, 1], labels[:1, 1])
    short = [functional.cross_entropy(logits[1:, :3, d], labels[1:, d]) for d in (0, 1)]
    loss = SPANS.loss(logits, batch(labels))
    assert loss.item() == pytest.approx(((start + end + sum(short)) / 4).item(), rel=1e-6)


def test_loss_of_classes_is_cross_entropy() -> None:
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[2], [0]])
    loss = Classes(3).loss(logits, batch(labels))
    assert loss.item() == pytest.approx(functional.cross_entropy(logits, labels[:, 0]).item())


def test_loss_of_values_is_the_squared_error() -> None:
    loss = Value().loss(torch.zeros(2, 1), batch(torch.tensor([[1.0], [3.0]])))
    assert loss.item() == 5.0


def test_loss_without_labels_is_refused() -> None:
    bare = batch(torch.zeros(2, 2).long())
    del bare["labels"]
    with pytest.raises(QualaError, match="needs labels"):
        SPANS.loss(torch.zeros(2, 5, 2), bare)


@pytest.mark.parametrize(("kind", "labels"), [("tagging", 2), ("question-answering", 3)])
def test_impossible_tasks_are_refused(kind: str, labels: int) -> None:
    with pytest.raises(QualaError):
        task_of(kind, labels)


def asked(answers: tuple[str, ...], starts: tuple[int, ...], number: int) -> QAExample:
    return QAExample(str(number), "", "one two six", "?", answers, starts)


def outcome(ahead: list[float], answered: list[bool]) -> Outcome:
    """Questions of which "two" is the best answer, behind [CLS] by `ahead`; it may be right."""
    examples = [
        asked(("two",) if yes else (), (4,) if yes else (), number)
        for number, yes in enumerate(answered)
    ]
    count = len(examples)
    features = FeatureSet(
        input_ids=np.zeros(6 * count, np.int32),
        offsets=np.arange(0, 6 * count + 1, 6),
        segment_one=np.full(count, 2, np.int32),
        example=np.arange(count, dtype=np.int32),
        pad_token_id=0,
        char_spans=np.tile([[0, 0], [0, 0], [0, 3], [4, 7], [8, 11], [0, 0]], (count, 1)),
        context_range=np.tile([[2, 5]], (count, 1)),
    )
    logits = [np.zeros((6, 2), np.float32) for _ in examples]
    for one, far in zip(logits, ahead, strict=True):
        one[3] = 2
        one[0] = (4 + far) / 2
    return Outcome(examples, features, logits)


def test_a_span_may_be_no_answer() -> None:
    found = outcome([-1.0, 0.5, 3.0], [True, True, False])
    scores, said = Span().judge(found)
    assert list(said.values()) == ["two"] * 3
    assert scores == pytest.approx({"f1": 200 / 3, "exact_match": 200 / 3})
    scores, said = Span(null=True).judge(found)  # at 0
    assert list(said.values()) == ["two", "", ""]
    assert scores["f1"] == pytest.approx(200 / 3)
    tuned = Span(null=True).tune(found)
    assert tuned == Span(null=True, null_threshold=0.5)
    scores, said = tuned.judge(found)
    assert list(said.values()) == ["two", "two", ""]
    assert scores == dict.fromkeys(NULL_METRICS, 100.0)
    assert tuned.example_scores(found).tolist() == [100.0] * 3
    assert tuned.samples(found, said)["f1"].values.tolist() == [100.0] * 3


def test_only_what_may_have_no_answer_is_tuned() -> None:
    found = outcome([-1.0], [True])
    for task in (Span(), Classes(3)):
        assert task.tuned
        assert task.tune(found) is task
        assert task.facts == {}
    assert not Span(null=True).tuned
    assert Span(null=True).facts == {"null_threshold": 0.0}


def test_the_place_of_no_answer_is_taught_and_learned_like_any_other() -> None:
    task, mask = Span(null=True), torch.ones(1, 4)
    logits = torch.zeros(1, 4, 2)
    logits[0, 0] = 5
    batch = Batch(attention_mask=mask, labels=torch.tensor([[0, 0]]))  # type: ignore[typeddict-item]
    assert task.loss(logits, batch) < task.loss(torch.zeros(1, 4, 2), batch)
    seen = []
    task.soft_loss(
        logits, logits, mask, lambda student, teacher: seen.append(teacher) or torch.zeros(())
    )
    assert seen[0][0, :, 0].tolist() == [5, 5]
