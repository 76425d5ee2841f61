"""Each strategy sums the attention of its own rows, none of them of padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from quala.errors import QualaError
from quala.models.significance import QueryRows, Question, View, significance
from quala.plugins import SIGNIFICANCE

BATCH, HEADS, TOKENS = 2, 3, 20


def query_key() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, BATCH, HEADS, TOKENS, 4, generator=generator)
    return query, key


def question_of(*counts: int) -> Tensor:
    return torch.arange(max(counts)) < torch.tensor(counts).unsqueeze(1)


def view(query: Tensor, key: Tensor, valid: Tensor | None, question: Tensor) -> View:
    """See queries and keys; the hidden states are the first query head, two numbers the head."""
    return View(query, key, valid, question, hidden=query[:, 0], span=lambda h: h[..., :2])


def attention_of(query: Tensor, key: Tensor, tokens: int) -> Tensor:
    logits = query[:, :, :tokens] @ key[:, :, :tokens].transpose(2, 3) / 2.0
    return logits.softmax(dim=-1)  # (B, heads, n, n)


def test_column_sum_adds_every_row() -> None:
    query, key = query_key()
    expected = attention_of(query, key, TOKENS).sum(dim=(1, 2))
    scores = significance("column_sum").scores(view(query, key, None, question_of(4, 4)))
    torch.testing.assert_close(scores, expected)


def test_query_rows_adds_the_first_rows() -> None:
    query, key = query_key()
    expected = attention_of(query, key, TOKENS)[:, :, :16].sum(dim=(1, 2))
    scores = significance("query_rows").scores(view(query, key, None, question_of(4, 4)))
    torch.testing.assert_close(scores, expected)


def test_cls_is_the_first_row() -> None:
    query, key = query_key()
    expected = attention_of(query, key, TOKENS)[:, :, 0].sum(dim=1)
    torch.testing.assert_close(
        significance("cls").scores(view(query, key, None, question_of(4, 4))), expected
    )


def test_question_adds_each_examples_own_rows() -> None:
    query, key = query_key()
    probabilities = attention_of(query, key, TOKENS)
    scores = significance("question").scores(view(query, key, None, question_of(3, 7)))
    torch.testing.assert_close(scores[0], probabilities[0, :, :3].sum(dim=(0, 1)))
    torch.testing.assert_close(scores[1], probabilities[1, :, :7].sum(dim=(0, 1)))


def test_question_stops_at_its_most_rows() -> None:
    query, key = query_key()
    scores = Question(rows=5).scores(view(query, key, None, question_of(9, 9)))
    expected = attention_of(query, key, TOKENS)[:, :, :5].sum(dim=(1, 2))
    torch.testing.assert_close(scores, expected)


def test_the_first_row_counts_where_no_question_is_left() -> None:
    query, key = query_key()
    scores = significance("question").scores(view(query, key, None, question_of(0, 4)))
    expected = attention_of(query, key, TOKENS)[0, :, 0].sum(dim=0)
    torch.testing.assert_close(scores[0], expected)


def test_span_is_the_likelier_of_start_and_end() -> None:
    query, key = query_key()
    logits = query[:, 0, :, :2]
    starts, ends = logits[..., 0].softmax(dim=1), logits[..., 1].softmax(dim=1)
    scores = significance("span").scores(view(query, key, None, question_of(4, 4)))
    torch.testing.assert_close(scores[:, 4:].exp(), torch.maximum(starts, ends)[:, 4:])


def test_span_counts_the_question_as_eight_times_chance() -> None:
    query, key = query_key()
    valid = torch.arange(TOKENS) < torch.tensor([[TOKENS], [11]])
    scores = significance("span").scores(view(query, key, valid, question_of(2, 4)))
    torch.testing.assert_close(scores[0, :2].exp(), torch.full((2,), 8 / TOKENS))
    torch.testing.assert_close(scores[1, :4].exp(), torch.full((4,), 8 / 11))


@pytest.mark.parametrize("name", sorted(SIGNIFICANCE.own))
def test_padding_is_neither_summed_nor_scored(name: str) -> None:
    query, key = query_key()
    valid, question = torch.arange(TOKENS) < torch.tensor([[TOKENS], [11]]), question_of(4, 4)
    scores = significance(name).scores(view(query, key, valid, question))
    short = query[1:, :, :11], key[1:, :, :11]
    alone = significance(name).scores(view(*short, None, question[1:]))
    torch.testing.assert_close(scores[1, :11], alone[0])
    padding = scores[1, 11:]
    assert (padding == -torch.inf).all() if name == "span" else not padding.any()


@pytest.mark.parametrize("name", sorted(SIGNIFICANCE.own))
def test_scores_carry_no_gradient(name: str) -> None:
    query, key = (tensor.requires_grad_() for tensor in query_key())
    assert not significance(name).scores(view(query, key, None, question_of(4, 4))).requires_grad


def test_fewer_tokens_than_rows_are_enough() -> None:
    query, key = query_key()
    scores = QueryRows(rows=99).scores(view(query, key, None, question_of(4, 4)))
    torch.testing.assert_close(scores, attention_of(query, key, TOKENS).sum(dim=(1, 2)))


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(QualaError, match="Did you mean `question`"):
        significance("questions")
