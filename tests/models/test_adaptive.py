"""Both attentions agree, and the published one shows the probabilities that it used."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toys import restored_hidden, survivors

from quala.data.task import Span
from quala.data.task_embed import Embedding
from quala.errors import QualaError
from quala.lengths import LengthConfig
from quala.models.adaptive import LengthAdaptiveModel, fused_attention, published_attention
from quala.models.selection import gather_tokens


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


def test_padding_rows_count_for_real_columns_only() -> None:
    valid = torch.arange(6) < torch.tensor([[6], [4]])
    _, scores = published_attention(*qkv(6, 4), valid=valid, dropout=0.0)
    torch.testing.assert_close(scores.sum(dim=1), torch.full((2,), 18.0))
    assert scores[1, 4:].tolist() == [0.0, 0.0]


def test_the_column_sums_are_of_what_dropout_left() -> None:
    query, key, _ = qkv(6, 4)
    identity = torch.eye(6).expand(2, 3, 6, 6)  # makes the context show the probabilities
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        context, scores = published_attention(query, key, identity, valid=None, dropout=0.5)
    assert (context == 0).any()
    torch.testing.assert_close(scores, context.sum(dim=(1, 2)))


Build = Callable[..., LengthAdaptiveModel]
MakeBatch = Callable[..., dict[str, Tensor]]

FAMILIES = (
    "bert", "roberta", "xlm-roberta", "electra", "distilbert", "mpnet", "modernbert", "deberta-v2",
    "albert",
)  # fmt: skip
KINDS_AND_STRATEGIES = [
    (kind, strategy)
    for kind in ("question-answering", "classification")
    for strategy in ("column_sum", "query_rows", "question", "cls", "span")
    if strategy != "span" or kind == "question-answering"
] + [("token-classification", "cls"), ("embedding", "column_sum")]
LENGTHS = LengthConfig((24, 12, 6), 32)


def untouched(model: LengthAdaptiveModel, batch: dict[str, Tensor]) -> Tensor:
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if model.arch.type_vocabulary > 1:
        inputs["token_type_ids"] = batch["segment_ids"]
    outputs = model.hf(**inputs)
    if isinstance(model.task, Span):
        return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)
    logits: Tensor = outputs.logits
    return logits


def one(batch: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """Cut example `row` out, without its padding."""
    tokens = int(batch["attention_mask"][row].sum())
    return {name: values[row : row + 1, :tokens] for name, values in batch.items()}


@pytest.mark.parametrize(
    "kind", ["question-answering", "classification", "regression", "token-classification"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_full_length_equals_the_untouched_model(
    family: str, kind: str, build: Build, make_batch: MakeBatch
) -> None:
    model = build(family, kind)
    batch = make_batch([7, 20, 32], family=family)
    logits, expected = model(batch), untouched(model, batch)
    if model.task.per_token:
        real = batch["attention_mask"].bool()
        logits, expected = logits[real], expected[real]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_lengths_that_keep_everything_change_nothing(build: Build, make_batch: MakeBatch) -> None:
    model, batch = build(), make_batch([9, 20])
    full = LengthConfig.full(layers=3, sequence_length=32)
    torch.testing.assert_close(model(batch, full), model(batch), atol=0, rtol=0)


@pytest.mark.parametrize(("kind", "significance"), KINDS_AND_STRATEGIES)
@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "modernbert"])
def test_padding_and_neighbors_do_not_matter(
    family: str, kind: str, significance: str, build: Build, make_batch: MakeBatch
) -> None:
    model = build(family, kind, significance=significance)
    batch = make_batch([5, 13, 32, 1], family=family)
    together = model(batch, LENGTHS)
    for row, tokens in enumerate([5, 13, 32, 1]):
        alone = model(one(batch, row), LENGTHS)[0]
        neighbor = together[row][:tokens] if model.task.per_token else together[row]
        torch.testing.assert_close(neighbor, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tokens", [[32, 32], [30, 11, 19]])
def test_restored_logits_equal_the_head_on_restored_states(
    tokens: list[int], build: Build, make_batch: MakeBatch
) -> None:
    model, batch = build(), make_batch(tokens)
    expected = model.family.tokens(model.hf, restored_hidden(model, batch, LENGTHS))
    torch.testing.assert_close(model(batch, LENGTHS), expected)


@pytest.mark.parametrize("tokens", [[32, 32], [30, 11, 19]])
@pytest.mark.parametrize("normalize", [True, False])
def test_an_embedding_is_the_mean_of_restored_states(
    tokens: list[int], normalize: bool, build: Build, make_batch: MakeBatch
) -> None:
    model, batch = build("bert", "embedding", significance="cls"), make_batch(tokens)
    model.task = Embedding(normalize=normalize)
    hidden = restored_hidden(model, batch, LENGTHS)
    real = batch["attention_mask"].unsqueeze(-1)
    mean = (hidden * real).sum(dim=1) / real.sum(dim=1)
    expected = torch.nn.functional.normalize(mean, dim=-1) if normalize else mean
    torch.testing.assert_close(model(batch, LENGTHS), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_embeddings_equal_the_untouched_encoder(
    family: str, build: Build, make_batch: MakeBatch
) -> None:
    model, batch = build(family, "embedding"), make_batch([7, 20, 32], family=family)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if family in ("bert", "electra", "albert"):
        inputs["token_type_ids"] = batch["segment_ids"]
    hidden = model.hf(**inputs).last_hidden_state
    means = [row[:count].mean(dim=0) for row, count in zip(hidden, (7, 20, 32), strict=True)]
    for pooling, pooled in (("cls", hidden[:, 0]), ("mean", torch.stack(means))):
        model.task = Embedding(pooling=pooling)  # type: ignore[arg-type]
        expected = torch.nn.functional.normalize(pooled, dim=-1)
        torch.testing.assert_close(model(batch), expected, atol=1e-5, rtol=0)


def test_hidden_states_of_a_classifier_are_restored_too(
    build: Build, make_batch: MakeBatch
) -> None:
    model, batch = build("bert", "classification"), make_batch([20, 20])
    assert restored_hidden(model, batch, LENGTHS).shape == (2, 20, 16)


def test_a_dropped_token_keeps_its_last_complete_layer(
    build: Build, make_batch: MakeBatch
) -> None:
    model, batch = build(), make_batch([20])
    hidden = restored_hidden(model, batch, LengthConfig((8, 8, 8), 32))
    state = model.narrow(model.attend(model.begin(batch), 0, True), 0, [5])
    dropped = sorted(set(range(20)) - set(survivors(state.drops)[0].tolist()))
    torch.testing.assert_close(hidden[0, dropped], model.begin(batch).hidden[0, dropped])


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_that_stay_keep_their_places(
    family: str, build: Build, make_batch: MakeBatch
) -> None:
    """The others are dropped in one model, and hidden from every later layer in the other."""
    model, batch = build(family), make_batch([20, 32], family=family)
    state = model.narrow(model.attend(model.begin(batch), 0, True), 0, [7, 7])
    whole = model.narrow(model.attend(model.begin(batch), 0, False), 0, None)
    kept = survivors(state.drops)  # (B, 7)
    hidden = torch.zeros_like(batch["attention_mask"]).scatter(1, kept, 1).bool()
    whole = replace(whole, valid=hidden)
    for layer in (1, 2):
        state = model.narrow(model.attend(state, layer, False), layer, None)
        whole = model.narrow(model.attend(whole, layer, False), layer, None)
    torch.testing.assert_close(state.hidden, gather_tokens(whole.hidden, kept))


def test_dropped_tokens_leave_the_computation(build: Build, make_batch: MakeBatch) -> None:
    model, seen = build(), []
    for layer in model.family.layers(model.hf):
        hook: Any = lambda _, inputs: seen.append(inputs[0].shape[1])  # noqa: E731
        model.family.block(layer).query.register_forward_pre_hook(hook)
        model.family.block(layer).ffn_in.register_forward_pre_hook(hook)
    model(make_batch([32, 16]), LENGTHS)
    assert seen == [32, 24, 24, 12, 12, 6]


def test_tokens_stay_in_the_order_of_the_text(build: Build, make_batch: MakeBatch) -> None:
    model, batch = build(), make_batch([32, 20])
    state = model.narrow(model.attend(model.begin(batch), 0, True), 0, [16, 10])
    for row in survivors(state.drops).tolist():
        kept = [position for position in row if position >= 0]
        assert kept == sorted(kept)


def test_padding_never_outlives_a_real_token(build: Build, make_batch: MakeBatch) -> None:
    model, batch = build(significance="column_sum"), make_batch([30, 6])
    state = model.narrow(model.attend(model.begin(batch), 0, True), 0, [20, 6])
    assert survivors(state.drops)[1].tolist() == [0, 1, 2, 3, 4, 5] + [-1] * 14


def test_a_classifier_never_drops_cls(build: Build, make_batch: MakeBatch) -> None:
    model, batch = build("bert", "classification"), make_batch([32, 17, 9], seed=3)
    state = model.begin(batch)
    for layer, keep in enumerate(model.keep_counts(batch, LengthConfig((8, 4, 2), 32))):
        state = model.narrow(model.attend(state, layer, True), layer, keep)
        assert survivors(state.drops)[:, 0].tolist() == [0, 0, 0]


def test_keep_counts_follow_each_example(build: Build, make_batch: MakeBatch) -> None:
    config = LengthConfig((16, 16, 8), 32)
    counts = build().keep_counts(make_batch([32, 10]), config)
    assert counts == [[16, 5], None, [8, 3]]


def test_a_skipped_layer_leaves_its_drop_to_the_next(build: Build, make_batch: MakeBatch) -> None:
    config = LengthConfig((16, 16, 8), 32)
    counts = build().keep_counts(make_batch([32]), config, skip_layers=frozenset({0}))
    assert counts == [None, [16], [8]]


def test_a_layer_that_drops_nothing_is_not_scored(build: Build, make_batch: MakeBatch) -> None:
    model, batch = build(), make_batch([20, 20])
    assert model.attend(model.begin(batch), 0, False).scores is None


def test_rows_without_padding_use_no_mask(
    build: Build, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks, fused = [], functional.scaled_dot_product_attention

    def record(*args: Any, **options: Any) -> Tensor:
        masks.append(options["attn_mask"])
        context: Tensor = fused(*args, **options)
        return context

    monkeypatch.setattr(functional, "scaled_dot_product_attention", record)
    build()(make_batch([20, 20]), LENGTHS)
    assert masks == [None, None, None]


def test_skipped_layers_are_identities(build: Build, make_batch: MakeBatch) -> None:
    model, batch = build(), make_batch([20, 12])
    shorter = copy.deepcopy(model)
    del shorter.family.layers(shorter.hf)[1]
    torch.testing.assert_close(model(batch, skip_layers=frozenset({1})), shorter(batch))


def test_steps_equal_the_whole_pass(build: Build, make_batch: MakeBatch) -> None:
    model, batch = build(), make_batch([32, 21])
    state = model.begin(batch)
    for layer, keep in enumerate(model.keep_counts(batch, LENGTHS)):
        state = model.narrow(model.attend(state, layer, keep is not None), layer, keep)
    torch.testing.assert_close(model.finish(state), model(batch, LENGTHS), atol=0, rtol=0)


def test_the_feed_forward_may_come_before_the_drop(build: Build, make_batch: MakeBatch) -> None:
    model, batch = build(), make_batch([32, 21])
    keep = model.keep_counts(batch, LENGTHS)[0]
    attended = model.attend(model.begin(batch), 0, True)
    late = model.drop(model.feed(attended, 0), keep)
    torch.testing.assert_close(late.hidden, model.narrow(attended, 0, keep).hidden)


def test_exits_are_what_the_head_says_after_each_attention(
    build: Build, make_batch: MakeBatch
) -> None:
    model, batch = build(significance="span"), make_batch([32, 21])
    logits, exits = model.forward_exits(batch, skip_layers=frozenset({1}))
    torch.testing.assert_close(logits, model(batch, skip_layers=frozenset({1})))
    first = model.attend(model.begin(batch), 0, False)
    second = model.attend(model.narrow(first, 0, None), 2, False)
    for early, state in zip(exits, (first, second), strict=True):
        torch.testing.assert_close(early, model.family.tokens(model.hf, state.hidden))


def test_span_needs_question_answering(build: Build) -> None:
    with pytest.raises(QualaError, match="question answering, got classification"):
        build("bert", "classification", significance="span")


def test_a_state_can_be_advanced_twice(build: Build, make_batch: MakeBatch) -> None:
    model, batch = build(), make_batch([32, 21])
    attended = model.attend(model.begin(batch), 0, True)
    for lengths in (LengthConfig((16, 16, 16), 32), LengthConfig((8, 8, 8), 32)):
        state = model.narrow(attended, 0, model.keep_counts(batch, lengths)[0])
        for layer in (1, 2):
            state = model.narrow(model.attend(state, layer, False), layer, None)
        torch.testing.assert_close(model.finish(state), model(batch, lengths))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trace_holds_every_intermediate(
    family: str, build: Build, make_batch: MakeBatch
) -> None:
    model, batch = build(family), make_batch([20, 12], family=family)
    trace = model.trace(batch)
    torch.testing.assert_close(trace.logits, model(batch))
    assert [len(trace.hidden), len(trace.queries), len(trace.keys), len(trace.values)] == [
        4,
        3,
        3,
        3,
    ]
    assert trace.hidden[0].shape == (2, 20, 16)
    assert trace.queries[0].shape == (2, 4, 20, 4)
    assert trace.mask.equal(batch["attention_mask"].bool())


def test_a_replaced_linear_is_used(build: Build, make_batch: MakeBatch) -> None:
    model, batch = build(), make_batch([20])
    before = model(batch)
    attended: Any = model.family.layers(model.hf)[0]
    attended.attention.self.value = nn.Sequential(attended.attention.self.value, nn.Tanh())
    assert not torch.allclose(model(batch), before)


def test_gradients_reach_the_embeddings_through_a_dropped_token(
    build: Build, make_batch: MakeBatch
) -> None:
    model, batch = build(), make_batch([20])
    state = model.narrow(model.attend(model.begin(batch), 0, True), 0, [4])
    dropped = min(set(range(20)) - set(survivors(state.drops)[0].tolist()))
    model.finish(state)[0, dropped].sum().backward()
    weight: Any = model.hf.get_input_embeddings().weight
    reached = weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert reached == [int(batch["input_ids"][0, dropped])]


@pytest.mark.parametrize("tokens", [[32, 32], [31, 12]])
def test_gradients_with_drops_equal_finite_differences(
    tokens: list[int], build: Build, make_batch: MakeBatch
) -> None:
    model, batch = build(), make_batch(tokens)
    weight: Any = model.family.block(model.family.layers(model.hf)[0]).ffn_in
    weight = weight.weight
    direction = torch.randn(
        weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    model(batch, LENGTHS).square().mean().backward()

    def loss(step: float) -> Tensor:
        with torch.no_grad():
            weight.add_(direction, alpha=step)
            value: Tensor = model(batch, LENGTHS).square().mean()
            weight.sub_(direction, alpha=step)
        return value

    slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
    torch.testing.assert_close((weight.grad * direction).sum(), slope, rtol=1e-5, atol=1e-8)


def test_dropout_acts_in_training_only(build: Build, make_batch: MakeBatch) -> None:
    model = build(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    batch = make_batch([20])
    assert torch.equal(model(batch), model(batch))
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.equal(model(batch), model(batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_configured_dropouts_reach_the_layers(family: str, build: Build) -> None:
    names = {"attention_probs_dropout_prob": 0.3, "hidden_dropout_prob": 0.2}
    if family == "distilbert":
        names = {"attention_dropout": 0.3, "dropout": 0.2}
    if family == "modernbert":
        names = {"attention_dropout": 0.3, "mlp_dropout": 0.2}
    model = build(family, **names)
    block: Any = model.family.block(model.family.layers(model.hf)[0])
    hidden = block.attention_out_dropout if family == "albert" else block.ffn_dropout
    assert (block.attention_dropout.p, hidden.p) == (0.3, 0.2)


def test_input_beyond_the_positions_is_refused(build: Build, make_batch: MakeBatch) -> None:
    with pytest.raises(QualaError, match="at most 32 tokens, got 33"):
        build("roberta")(make_batch([33], family="roberta"))


def test_an_empty_example_is_refused(build: Build, make_batch: MakeBatch) -> None:
    with pytest.raises(QualaError, match="at least one token"):
        build()(make_batch([3, 0]))


def test_a_wrong_number_of_lengths_is_refused(build: Build, make_batch: MakeBatch) -> None:
    with pytest.raises(QualaError, match="Expected 3 lengths"):
        build()(make_batch([20]), LengthConfig((8,), 32))


def test_dropping_without_scores_is_refused(build: Build, make_batch: MakeBatch) -> None:
    model = build()
    with pytest.raises(QualaError, match="scored=True"):
        model.narrow(model.attend(model.begin(make_batch([20])), 0, False), 0, [5])


@pytest.mark.parametrize("keep", [[21], [0]])
def test_counts_that_cannot_be_kept_are_refused(
    keep: list[int], build: Build, make_batch: MakeBatch
) -> None:
    model = build()
    with pytest.raises(QualaError, match="cannot keep"):
        model.narrow(model.attend(model.begin(make_batch([20])), 0, True), 0, keep)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"semantics": "natrual"}, "natural"), ({"significance": "column_sums"}, "column_sum")],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    options: dict[str, str], named: str, build: Build
) -> None:
    with pytest.raises(QualaError, match=f"Did you mean `{named}`"):
        build(**options)


def keeps_first(model: LengthAdaptiveModel, batch: dict[str, Tensor]) -> bool:
    """Run with short lengths, and return whether each example has its first token."""
    state = model.begin(batch)
    for layer, keep in enumerate(model.keep_counts(batch, LengthConfig((16, 8, 4), 32))):
        state = model.narrow(model.attend(state, layer, scored=True), layer, keep)
    return bool(survivors(state.drops)[:, 0].eq(0).all())


def test_the_place_of_no_answer_is_never_dropped(build: Any, make_batch: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    dropped = False
    for significance in ("column_sum", "question", "span"):
        model, batch = build(significance=significance), make_batch([32, 20, 9])
        for _ in range(4):
            for parameter in model.hf.parameters():
                parameter.data.normal_(std=0.4, generator=draw)
            model.task = Span(null=True)
            assert keeps_first(model, batch)
            model.task = Span()
            dropped |= not keeps_first(model, batch)
    assert dropped  # where it means nothing it may be


def test_a_likely_null_answer_does_not_move_the_context_below_the_question(
    build: Any, make_batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = build(significance="span"), make_batch([24])
    kind, orders = type(model.family), {}
    head = kind.tokens
    for null in (False, True):
        for pull in (0.0, 40.0):
            model.task = Span(null=null)
            bonus = torch.zeros(24, 1).index_fill(0, torch.tensor([0]), pull)
            monkeypatch.setattr(kind, "tokens", lambda *one, b=bonus: head(*one) + b)
            state = model.attend(model.begin(batch), 0, scored=True)
            orders[null, pull] = state.scores.argsort(descending=True)[0].tolist()
    assert orders[True, 0.0] == orders[True, 40.0]
    assert orders[False, 0.0] != orders[False, 40.0]
