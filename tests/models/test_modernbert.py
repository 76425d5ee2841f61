"""What ModernBERT alone has: windows, gates, pooling by mean, a first layer without a norm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from toys import Build, BuildHf, MakeBatch
from transformers import ModernBertForMaskedLM

from quala.checkpoint import set_dropout
from quala.compress.structure import keep_layers
from quala.data.task import Span
from quala.errors import QualaError
from quala.graph.encoder import build_graph
from quala.lengths import LengthConfig
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import load_model

LENGTHS = LengthConfig((24, 12, 6), 32)


def test_the_mean_of_the_tokens_left_is_classified(build: Build, make_batch: MakeBatch) -> None:
    model = build("modernbert", "classification", classifier_pooling="mean", significance="cls")
    batch = make_batch([7, 20, 32], family="modernbert")
    words = {name: batch[name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(model(batch), model.hf(**words).logits, atol=1e-5, rtol=0)
    alone = model({name: values[:1, :7] for name, values in batch.items()}, LENGTHS)
    torch.testing.assert_close(model(batch, LENGTHS)[:1], alone, atol=1e-5, rtol=0)
    graph = build_graph(model.float(), sequence_length=32).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    feeds = {name: values.numpy() for name, values in batch.items()}
    found = session.run(None, feeds | {"lengths": np.array(LENGTHS.lengths)})[0]
    np.testing.assert_allclose(found, model(batch, LENGTHS).detach().numpy(), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_of_padding_that_see_no_token_are_numbers(
    dtype: torch.dtype, build: Build, make_batch: MakeBatch
) -> None:
    model = build("modernbert").to(dtype)
    assert bool(model(make_batch([3, 32], family="modernbert"), LENGTHS).isfinite().all())


def test_the_head_runs_once_for_each_token(build: Build, make_batch: MakeBatch) -> None:
    model, seen = build("modernbert"), list[int]()
    model.hf.get_submodule("head.dense").register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape[1])
    )
    model(make_batch([32, 16], family="modernbert"), LENGTHS)
    assert seen == [32]


def test_layers_keep_their_kind_of_attention(
    build_hf: BuildHf, make_batch: MakeBatch, tmp_path: Path
) -> None:
    hf, batch = build_hf("modernbert").float(), make_batch([20], family="modernbert")
    small = keep_layers(hf, [0, 2])
    assert small.config.layer_types == ["full_attention", "sliding_attention"]
    small.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, task=Span())
    torch.testing.assert_close(loaded(batch), LengthAdaptiveModel(small)(batch))
    with pytest.raises(QualaError, match="must keep layer 0, got layers 1, 2"):
        keep_layers(hf, [1, 2])


def test_dropout_rates_reach_what_has_no_module(build_hf: BuildHf) -> None:
    hf = build_hf("modernbert")
    set_dropout(hf, hidden=0.3, attention=0.7)
    layer: Any = hf.base_model.layers[1]
    assert (layer.attn.attention_dropout, layer.attn.out_drop.p) == (0.7, 0.7)
    assert (layer.mlp.drop.p, hf.drop.p) == (0.3, 0.3)
    assert (hf.config.mlp_dropout, hf.config.attention_dropout) == (0.3, 0.7)


def test_the_hidden_layer_of_the_head_comes_from_the_masked_language_model(
    build_hf: BuildHf, tmp_path: Path
) -> None:
    old = ModernBertForMaskedLM(build_hf("modernbert").config)
    old.save_pretrained(tmp_path)
    with pytest.raises(QualaError, match="a ModernBertForMaskedLM, has no head for question"):
        load_model(tmp_path, task=Span())
    new: Any = load_model(tmp_path, task=Span(), head="or_new").hf
    assert torch.equal(new.head.dense.weight, old.head.dense.weight)
    assert new.classifier.weight.shape == (2, 16)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"norm_bias": True}, "`norm_bias` must be False for `modernbert`, got True"),
        ({"classifier_activation": "silu"}, "`classifier_activation` must be gelu, relu, tanh"),
    ],
)
def test_what_the_layers_are_not_written_for_is_refused(
    option: dict[str, Any], sentence: str, build_hf: BuildHf
) -> None:
    with pytest.raises(QualaError, match=sentence):
        LengthAdaptiveModel(build_hf("modernbert", **option))


def test_other_rotations_are_refused(build_hf: BuildHf) -> None:
    hf = build_hf("modernbert")
    hf.config.rope_parameters["full_attention"]["rope_type"] = "yarn"
    with pytest.raises(QualaError, match="`rope_type` must be `default`, got default, yarn"):
        LengthAdaptiveModel(hf)
