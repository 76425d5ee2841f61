from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from quala.data.features import Batch
from quala.data.task import Classes, Span, Value, task_of
from quala.errors import QualaError

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
