"""Both attentions agree, and the published one shows the probabilities that it used."""

from __future__ import annotations

import torch
from torch import Tensor

from quala.models.adaptive import fused_attention, published_attention


def qkv(tokens: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, tokens, width, generator=generator)
    return query, key, value


def test_both_give_the_same_context() -> None:
    query, key, value = qkv(6, 4)
    valid = torch.arange(6) < torch.tensor([[6], [4]])
    fused = fused_attention(query, key, value, valid=valid, dropout=0.0)
    context, _ = published_attention(query, key, value, valid=valid, dropout=0.0)
    torch.testing.assert_close(context, fused)


def test_bfloat16_on_the_cpu_attends_in_float32() -> None:
    wide = tuple(part.bfloat16().float() for part in qkv(6, 4))
    valid = torch.arange(6) < torch.tensor([[6], [4]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = (part.bfloat16() for part in wide)
        context = fused_attention(*narrow, valid=valid, dropout=0.0)
    exact = fused_attention(*wide, valid=valid, dropout=0.0)
    assert torch.equal(context, exact.bfloat16())


def test_padding_rows_vote_for_real_columns_only() -> None:
    valid = torch.arange(6) < torch.tensor([[6], [4]])
    _, scores = published_attention(*qkv(6, 4), valid=valid, dropout=0.0)
    torch.testing.assert_close(scores.sum(dim=1), torch.full((2,), 18.0))
    assert scores[1, 4:].tolist() == [0.0, 0.0]


def test_the_votes_are_what_dropout_left() -> None:
    query, key, _ = qkv(6, 4)
    identity = torch.eye(6).expand(2, 3, 6, 6)  # makes the context show the probabilities
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        context, scores = published_attention(query, key, identity, valid=None, dropout=0.5)
    assert (context == 0).any()
    torch.testing.assert_close(scores, context.sum(dim=(1, 2)))
