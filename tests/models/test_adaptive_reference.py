"""Reference semantics against a plain rendering of the published description."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from toys import restored_hidden, survivors

from quala.cost import macs
from quala.data.task import Classes
from quala.errors import QualaError
from quala.lengths import LengthConfig
from quala.models.adaptive import LengthAdaptiveModel

Build = Callable[..., LengthAdaptiveModel]
MakeBatch = Callable[..., dict[str, Tensor]]

LENGTHS = LengthConfig((24, 14, 5), 32)
TOKENS = [32, 19]  # the second example's padding outlives the first drop


def top(received: Tensor, count: int) -> list[int]:
    """Rank as top-k does, with an order for ties: all padding scores zero, yet its rows count."""
    return sorted(range(len(received)), key=lambda i: -float(received[i]))[:count]


def published(hf: Any, example: dict[str, Tensor], *, cls: bool) -> tuple[Tensor, list[list[int]]]:
    """Run one example the published way: eager, column sums, unsorted top-k, hidden restore."""
    ids, segments = example["input_ids"][None], example["segment_ids"][None]
    hidden = hf.bert.embeddings(input_ids=ids, token_type_ids=segments)[0]  # (n, H)
    penalty = (1.0 - example["attention_mask"].double()) * -10000.0
    restored, positions, kept = hidden.clone(), list(range(len(hidden))), []
    for layer, length in zip(hf.bert.encoder.layer, LENGTHS.lengths, strict=True):
        attention = layer.attention.self
        context, received = [], torch.zeros(len(hidden), dtype=torch.float64)
        for head in range(attention.num_attention_heads):
            size = attention.attention_head_size
            part = slice(head * size, (head + 1) * size)
            query, key = attention.query(hidden)[:, part], attention.key(hidden)[:, part]
            probabilities = torch.softmax(query @ key.T / math.sqrt(size) + penalty, dim=-1)
            context.append(probabilities @ attention.value(hidden)[:, part])
            received += probabilities.sum(dim=0)
        attended = layer.attention.output(torch.cat(context, dim=-1), hidden)
        if cls:
            index = [0, *(i + 1 for i in top(received[1:], length - 1))]
        else:
            index = top(received, length)
        attended, penalty = attended[index], penalty[index]
        positions = [positions[i] for i in index]
        hidden = layer.output(layer.intermediate(attended), attended)
        restored[positions] = hidden
        kept.append(list(positions))
    return restored, kept


def run_published(
    model: LengthAdaptiveModel, batch: dict[str, Tensor], row: int
) -> tuple[Tensor, list[list[int]]]:
    cls = not model.task.per_token
    return published(model.hf, {name: values[row] for name, values in batch.items()}, cls=cls)


@pytest.mark.parametrize("kind", ["question-answering", "classification"])
@torch.no_grad()
def test_the_same_tokens_stay_in_the_same_order(
    kind: str, build: Build, make_batch: MakeBatch
) -> None:
    model = build("bert", kind, semantics="reference", significance="column_sum")
    batch = make_batch(TOKENS, pad_to=32)
    state, expected = model.begin(batch), [run_published(model, batch, row)[1] for row in (0, 1)]
    for layer, keep in enumerate(model.keep_counts(batch, LENGTHS)):
        state = model.narrow(model.attend(state, layer, True), layer, keep)
        assert survivors(state.drops).tolist() == [rows[layer] for rows in expected]


@pytest.mark.parametrize("kind", ["question-answering", "classification"])
@torch.no_grad()
def test_the_same_hidden_states_are_restored(
    kind: str, build: Build, make_batch: MakeBatch
) -> None:
    model = build("bert", kind, semantics="reference", significance="column_sum")
    batch = make_batch(TOKENS, pad_to=32)
    hidden = restored_hidden(model, batch, LENGTHS)
    for row in range(len(TOKENS)):
        torch.testing.assert_close(hidden[row], run_published(model, batch, row)[0])


@torch.no_grad()
def test_the_span_head_reads_the_restored_states(build: Build, make_batch: MakeBatch) -> None:
    model: Any = build("bert", semantics="reference", significance="column_sum")
    batch = make_batch([25], pad_to=32)
    expected = model.hf.qa_outputs(run_published(model, batch, 0)[0])
    torch.testing.assert_close(model(batch, LENGTHS)[0], expected)


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "mpnet", "modernbert"])
def test_the_closed_form_counts_the_matrix_products_that_run(
    family: str, build: Build, make_batch: MakeBatch
) -> None:
    model = build(family, semantics="reference", significance="column_sum")
    model.task = Classes(2)  # no head runs before the last layer
    with FlopCounterMode(display=False) as counter:
        restored_hidden(model, make_batch([32], family=family), LENGTHS)
    arch, seen = model.arch, (32, *LENGTHS.lengths)
    once = model.family.facts.products_per_token
    pointwise = 32 * (arch.hidden + once) + arch.hidden * sum(map(sum, pairwise(seen)))
    head = 32 * arch.outputs * arch.hidden
    if family == "modernbert":
        head += 32 * (arch.hidden**2 + arch.hidden)
    assert counter.get_total_flops() == 2 * (macs(arch, LENGTHS.lengths, 32) - pointwise - head)


def test_inputs_must_be_padded_to_the_sequence_length(build: Build, make_batch: MakeBatch) -> None:
    model = build(semantics="reference", significance="column_sum")
    with pytest.raises(QualaError, match="padded to 32 tokens, got 20"):
        model(make_batch([20]), LENGTHS)


def test_full_length_takes_any_padding(build: Build, make_batch: MakeBatch) -> None:
    model = build(semantics="reference", significance="column_sum")
    assert model(make_batch([20])).shape == (1, 20, 2)


def test_only_column_sums_rank_tokens(build: Build) -> None:
    with pytest.raises(QualaError, match="by `column_sum`, got `question`"):
        build(semantics="reference", significance="question")


def test_examples_of_a_batch_cannot_keep_different_lengths(
    build: Build, make_batch: MakeBatch
) -> None:
    model = build(semantics="reference", significance="column_sum")
    state = model.attend(model.begin(make_batch([32, 32])), 0, True)
    with pytest.raises(QualaError, match="one length per batch"):
        model.narrow(state, 0, [10, 11])
