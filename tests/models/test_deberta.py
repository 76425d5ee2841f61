"""DeBERTa's distances are those of the input, whatever is dropped, and its options are checked."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from toys import restored_hidden
from transformers import AutoModelForTokenClassification
from transformers.models.deberta_v2 import modeling_deberta_v2

from quala.compress.prune.structured import keep_units
from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.integer import to_integer
from quala.compress.quantize.transform import calibrate, quantize
from quala.cost import macs, parameters
from quala.data.task import Classes
from quala.errors import QualaError
from quala.lengths import LengthConfig
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.deberta import DEBERTA_V2
from quala.models.load import read_config

Build = Callable[..., LengthAdaptiveModel]
MakeBatch = Callable[..., dict[str, Tensor]]
LENGTHS = LengthConfig((24, 12, 6), 32)

VARIANTS: dict[str, dict[str, Any]] = {
    "c2p alone": {"pos_att_type": ["c2p"]},
    "p2c alone": {"pos_att_type": "p2c"},
    "neither": {"pos_att_type": []},
    "own projections": {"share_att_key": False},
    "no buckets": {"position_buckets": -1, "max_relative_positions": 12},
    "no norm": {"norm_rel_ebd": "none"},
    "absolute positions and types": {"position_biased_input": True, "type_vocab_size": 2},
    "no relative attention": {
        "relative_attention": False,
        "position_biased_input": True,
        "norm_rel_ebd": "none",
    },
}


def untouched(model: LengthAdaptiveModel, batch: dict[str, Tensor]) -> Tensor:
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    outputs = model.hf(**inputs, token_type_ids=batch["segment_ids"])
    return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)


@pytest.mark.parametrize("name", sorted(VARIANTS))
@torch.no_grad()
def test_every_option_equals_the_untouched_model(
    name: str, build: Build, make_batch: MakeBatch
) -> None:
    model, batch = build("deberta-v2", **VARIANTS[name]), make_batch([7, 20, 32])
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(
        model(batch)[real], untouched(model, batch)[real], atol=1e-5, rtol=0
    )
    assert parameters(model.arch) == sum(weight.numel() for weight in model.hf.parameters())
    alone = model({key: values[:1, :7] for key, values in batch.items()}, LENGTHS)
    torch.testing.assert_close(model(batch, LENGTHS)[:1, :7], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("activation", ["gelu", "tanh"])
@torch.no_grad()
def test_the_pooler_has_the_activation_and_dropout_of_its_config(
    activation: str, build: Build, make_batch: MakeBatch
) -> None:
    model = build(
        "deberta-v2", "classification", pooler_hidden_act=activation, pooler_dropout=0.25
    )
    batch = make_batch([7, 20])
    expected = model.hf(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    torch.testing.assert_close(model(batch), expected.logits, atol=1e-5, rtol=0)
    first: Any = model.family.sentence_head(model.hf).first_dropout
    assert first.p == 0.25


@torch.no_grad()
def test_tokens_are_classified_as_by_the_untouched_model(
    build: Build, make_batch: MakeBatch
) -> None:
    config = build("deberta-v2").hf.config
    model = LengthAdaptiveModel(
        AutoModelForTokenClassification.from_config(config).double().eval()
    )
    batch = make_batch([9, 20])
    expected = model.hf(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(model(batch)[real], expected.logits[real], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["own projections", "no buckets", "p2c alone"])
@torch.no_grad()
def test_the_bias_of_kept_tokens_is_a_part_of_that_of_all(
    name: str, build: Build, make_batch: MakeBatch
) -> None:
    model = build("deberta-v2", **VARIANTS[name])
    attention: Any = model.family.layers(model.hf)[1].get_submodule("attention.self")
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 2, 4, 32, 4, generator=generator, dtype=torch.float64)
    kinds = len(attention.pos_att_type)
    rows = model.hf.base_model.encoder.get_rel_embedding()
    distances = modeling_deberta_v2.build_relative_position(
        query, key, bucket_size=attention.position_buckets, max_position=32 + 2
    )
    flat = [states.flatten(0, 1) for states in (query, key)]
    whole = attention.disentangled_attention_bias(*flat, distances, rows, 1 + kinds)
    whole = whole.unflatten(0, (2, 4))  # (B, heads, n, n)
    kept = torch.tensor([[0, 1, 4, 9, 15, 31], [0, 3, 5, 6, 28, 30]])
    related = model.family.relate(model.hf, kept)
    taken = [torch.stack([states[b, :, kept[b]] for b in range(2)]) for states in (query, key)]
    bias = model.family.bias(model.hf, 1, taken[0], taken[1], related)
    assert bias is not None
    for b in range(2):
        part = whole[b][:, kept[b]][:, :, kept[b]]
        torch.testing.assert_close(bias[b], part)


def test_distances_have_the_buckets_of_transformers(build: Build) -> None:
    model = build("deberta-v2", position_buckets=256)
    model.hf.config.max_position_embeddings = 512
    states = torch.zeros(1, 512, 1)
    wanted = modeling_deberta_v2.build_relative_position(states, states, 256, 512) + 256
    found = model.family.relate(model.hf, torch.arange(512).expand(3, 512))
    assert found.shape == (1, 1, 512, 512)  # one for all examples and heads
    assert torch.equal(found[0], wanted.clamp(0, 511))


def test_pairs_are_found_once_for_all_layers_until_tokens_drop(
    build: Build, make_batch: MakeBatch
) -> None:
    model = build("deberta-v2")
    first = model.narrow(model.attend(model.begin(make_batch([20, 9])), 0, True), 0, None)
    second = model.attend(first, 1, True)
    assert second.related is first.related
    assert model.narrow(second, 1, [10, 9]).related.shape == (2, 1, 10, 10)


@pytest.mark.parametrize("significance", ["column_sum", "question"])
@torch.no_grad()
def test_tokens_are_ranked_by_the_attention_with_distances(
    significance: str, build: Build, make_batch: MakeBatch
) -> None:
    model, batch = build("deberta-v2", significance=significance), make_batch([12])
    model.hf.config._attn_implementation = "eager"
    attentions = model.hf(input_ids=batch["input_ids"], output_attentions=True).attentions
    rows = attentions[0][0].sum(dim=0)  # (n, n)
    expected = (rows if significance == "column_sum" else rows[:4]).sum(dim=0)
    scores = model.attend(model.begin(batch), 0, True).scores
    assert scores is not None
    torch.testing.assert_close(scores[0], expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_published_semantics_read_the_distances_of_ranked_tokens(
    build: Build, make_batch: MakeBatch
) -> None:
    batch = make_batch([32])
    ranked = build("deberta-v2", significance="column_sum", semantics="reference")
    sorted_ = build("deberta-v2", significance="column_sum")
    torch.testing.assert_close(ranked(batch, LENGTHS), sorted_(batch, LENGTHS))


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"conv_kernel_size": 3}, "`conv_kernel_size` must be 0, got 3: the convolution reads"),
        ({"attention_head_size": 8}, "`attention_head_size` must be 4, got 8"),
        ({"embedding_size": 8}, "`embedding_size` must be 16, got 8"),
        ({"pooler_hidden_act": "mish"}, "one of gelu, relu, tanh, got `mish`"),
        ({"relative_attention": False}, "would not know the order"),
    ],
)
def test_what_the_layers_lack_is_refused(
    option: dict[str, Any], sentence: str, build: Build
) -> None:
    config = build("deberta-v2").hf.config
    config.update(option)
    with pytest.raises(QualaError, match=sentence):
        DEBERTA_V2.check(config)


def test_the_first_version_is_refused_with_its_reason(
    build_hf: Callable[..., Any], tmp_path: Path
) -> None:
    build_hf("deberta").save_pretrained(tmp_path)
    with pytest.raises(QualaError, match=r"`deberta` is not supported: its queries.*deberta-v2"):
        read_config(tmp_path)


def test_heads_with_own_projections_of_distances_stay(build: Build) -> None:
    hf = build("deberta-v2", share_att_key=False).hf
    with pytest.raises(QualaError, match=r"cannot be pruned or factorized: .*share_att_key"):
        keep_units(hf, heads=[[0], [1], [2]])


def test_the_table_of_distances_is_dropped_out_in_training(
    build: Build, make_batch: MakeBatch
) -> None:
    model, batch = build("deberta-v2"), make_batch([20])
    model.train()
    plain = model(batch)
    attention: Any = model.family.layers(model.hf)[0].get_submodule("attention.self")
    attention.pos_dropout.p = 0.5
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.allclose(model(batch), plain)


@torch.no_grad()
def test_the_closed_form_counts_the_products_with_distances(
    build: Build, make_batch: MakeBatch
) -> None:
    model = build("deberta-v2", semantics="reference", significance="column_sum")
    model.task = Classes(2)  # no head runs before the last layer
    with FlopCounterMode(display=False) as counter:
        restored_hidden(model, make_batch([32]), LENGTHS)
    arch, seen = model.arch, (32, *LENGTHS.lengths)
    pointwise = 32 * (arch.hidden + 1) + arch.hidden * sum(map(sum, pairwise(seen)))
    head = 32 * arch.outputs * arch.hidden
    constants = 2 * 16 * arch.hidden**2 * arch.layers  # both projections of 2 x 8 buckets
    counted = counter.get_total_flops() // 2 - constants
    assert counted == macs(arch, LENGTHS.lengths, 32) - pointwise - head


@torch.no_grad()
def test_distances_widen_no_range_and_are_never_rounded(
    build: Build, make_batch: MakeBatch
) -> None:
    model, batch = build("deberta-v2").float(), make_batch([32])
    model.hf.base_model.encoder.LayerNorm.weight.mul_(100)

    def observe() -> None:
        model(batch)

    quantize(model.hf, QuantizeConfig(activation_range="minmax"))
    calibrate(model.hf, observe)
    key: Any = model.hf.get_submodule("deberta.encoder.layer.0.attention.self.key_proj")
    value: Any = model.hf.get_submodule("deberta.encoder.layer.0.attention.self.value_proj")
    assert key.input_quantizer.high == value.input_quantizer.high
    fake = DEBERTA_V2._of_distances(model.hf, 0)[0]
    to_integer(model.hf, inplace=True)
    made = DEBERTA_V2._of_distances(model.hf, 0)[0]
    assert fake is not None
    assert made is not None
    torch.testing.assert_close(made, fake)
