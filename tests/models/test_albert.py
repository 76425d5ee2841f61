"""ALBERT runs one layer many times, and refuses what would need many layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AlbertTokenizer, AutoModelForQuestionAnswering, AutoTokenizer

from quala.compress.prune.structured import keep_units, taylor_importance
from quala.compress.shrink import factorize
from quala.compress.structure import keep_layers
from quala.cost import PRESETS, macs, parameters
from quala.errors import QualaError
from quala.lengths import LengthConfig
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.albert import ALBERT
from quala.models.families import match_token_types
from quala.models.load import save_model

Build = Callable[..., LengthAdaptiveModel]
MakeBatch = Callable[..., dict[str, Tensor]]
LENGTHS = LengthConfig((24, 12, 6), 32)
SPECIAL = [(name, 0.0) for name in ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")]


@pytest.mark.parametrize("kind", ["question-answering", "classification"])
@torch.no_grad()
def test_padding_and_neighbors_do_not_matter(
    kind: str, build: Build, make_batch: MakeBatch
) -> None:
    model, batch = build("albert", kind), make_batch([5, 13, 32])
    together = model(batch, LENGTHS)
    for row, tokens in enumerate([5, 13]):
        one = {name: values[row : row + 1, :tokens] for name, values in batch.items()}
        alone = model(one, LENGTHS)[0]
        torch.testing.assert_close(together[row][: len(alone)], alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_fewer_layers_are_the_same_layer_fewer_times(
    build: Build, make_batch: MakeBatch, tmp_path: Path
) -> None:
    model, batch = build("albert"), make_batch([20, 12])
    small = LengthAdaptiveModel(keep_layers(model.hf, [0, 2]))
    expected = model(batch, skip_layers=frozenset({1}))
    torch.testing.assert_close(small(batch), expected)
    small.hf.save_pretrained(tmp_path)
    read = AutoModelForQuestionAnswering.from_pretrained(tmp_path, dtype=torch.float64)
    logits = read(**{**batch, "token_type_ids": batch.pop("segment_ids")}).start_logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(logits[real], expected[..., 0][real], atol=1e-5, rtol=0)


def test_layers_of_their_own_sizes_are_refused(build: Build) -> None:
    hf = build("albert").hf
    wanted = "all of them share one set of weights"
    calls: list[Callable[[], Any]] = [
        lambda: keep_units(hf, heads=[[0], [1], [2]]),
        lambda: factorize(hf, 1.5),
        lambda: taylor_importance(hf, [], lambda _: torch.zeros(())),
        ALBERT.check_width,
        ALBERT.check_shrink,
    ]
    for call in calls:
        with pytest.raises(QualaError, match=wanted):
            call()


@pytest.mark.parametrize("option", ["num_hidden_groups", "inner_group_num"])
def test_several_groups_are_refused(option: str, build_hf: Callable[..., Any]) -> None:
    with pytest.raises(QualaError, match=f"`{option}` must be 1, got 2"):
        LengthAdaptiveModel(build_hf("albert", **{option: 2}))


@pytest.mark.parametrize(("version", "types"), [(None, 2), ("4.30.1", 2), ("5.23.0", 1)])
def test_checkpoints_of_an_older_transformers_keep_their_token_types(
    version: str | None, types: int, build: Build, make_batch: MakeBatch, tmp_path: Path
) -> None:
    model = build("albert")
    model.hf.config.transformers_version = version
    tokenizer = AlbertTokenizer(vocab=[*SPECIAL, ("▁a", -1.0), ("▁b", -1.0)])
    match_token_types(model.hf, tokenizer)
    assert model.hf.config.type_vocab_size == types
    save_model(LengthAdaptiveModel(model.hf), tokenizer, tmp_path, metadata={})
    given = AutoTokenizer.from_pretrained(tmp_path)("a", "b").get("token_type_ids")
    assert given == ([0, 0, 0, 1, 1] if types == 2 else None)


def test_an_embedding_as_wide_as_the_layers_is_projected_too(
    build: Build, make_batch: MakeBatch
) -> None:
    model = build("albert", embedding_size=16)
    assert parameters(model.arch) == sum(weight.numel() for weight in model.hf.parameters())


def test_sharing_saves_parameters_and_no_work() -> None:
    albert, full = PRESETS["albert-base"], (128,) * 12
    assert parameters(albert) == 11_683_584 - 768 * 769 + 2 * 769  # published, without the pooler
    layers = replace(albert, embedding=768)
    assert macs(layers, full, 128) - macs(PRESETS["bert-base"], full, 128) == 128 * 768**2
