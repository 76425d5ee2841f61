"""The adapters see the same parts as Hugging Face, and the cost module counts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForTokenClassification,
    BertConfig,
    BertTokenizer,
    T5Config,
    T5Model,
)

from quala.cost import architecture_of, parameters
from quala.errors import QualaError
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.families import family_of, match_token_types

FAMILIES = (
    "bert", "roberta", "xlm-roberta", "electra", "distilbert", "mpnet", "modernbert", "deberta-v2",
    "albert",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["question-answering", "classification"])
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_counted_exactly(
    family: str, kind: str, build: Callable[..., LengthAdaptiveModel]
) -> None:
    model = build(family, kind)
    assert parameters(model.arch) == sum(weight.numel() for weight in model.hf.parameters())


def test_parameters_without_an_embedding_projection_are_counted_exactly(
    build: Callable[..., LengthAdaptiveModel],
) -> None:
    model = build("electra", embedding_size=16)
    assert parameters(model.arch) == sum(weight.numel() for weight in model.hf.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_architecture_reads_from_the_config(
    family: str, build: Callable[..., LengthAdaptiveModel]
) -> None:
    model: Any = build(family)
    arch = architecture_of(model.hf.config.to_dict())
    assert (arch.family, arch.hidden, arch.intermediate, arch.layers) == (family, 16, 32, 3)
    assert arch.embedding == (8 if family in ("albert", "electra") else 16)


def test_a_classifier_has_a_sentence_head() -> None:
    classes = {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {0: "a", 1: "b", 2: "c"},
    }
    arch = architecture_of(BertConfig().to_dict() | classes)
    assert (arch.head, arch.outputs) == ("sentence", 3)


def test_another_family_is_refused() -> None:
    model = T5Model(T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(QualaError, match=r"Unknown `model_type` `t5`.*bert, .*distilbert"):
        family_of(model)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_without_a_second_type_the_segments_rank_tokens_and_are_not_read(
    family: str,
    build: Callable[..., LengthAdaptiveModel],
    make_batch: Callable[..., dict[str, Tensor]],
) -> None:
    model, batch = build(family, type_vocab_size=2), make_batch([9, 9], family=family)
    plain = model.hf(input_ids=batch["input_ids"])
    words = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3}
    match_token_types(model.hf, BertTokenizer(vocab=words))
    assert model.hf.config.type_vocab_size == 2  # its tokenizer gives two
    assert not torch.allclose(model(batch)[..., 0], plain.start_logits)
    untyped = BertTokenizer(vocab=words, model_input_names=["input_ids", "attention_mask"])
    match_token_types(model.hf, untyped)
    single = LengthAdaptiveModel(model.hf)
    torch.testing.assert_close(single(batch)[..., 0], plain.start_logits, atol=1e-5, rtol=0)
    assert single.begin(batch).question.sum(dim=1).tolist() == [4, 4]
    assert parameters(single.arch) == sum(weight.numel() for weight in model.hf.parameters())


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"position_embedding_type": "relative_key"}, "`absolute`, got `relative_key`"),
        ({"is_decoder": True}, "`is_decoder` must be false"),
    ],
)
def test_a_model_that_would_be_run_as_another_is_refused(
    option: dict[str, Any], sentence: str, build_hf: Callable[..., Any]
) -> None:
    hf = build_hf()
    hf.config.update(option)
    with pytest.raises(QualaError, match=sentence):
        LengthAdaptiveModel(hf)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_of_labels_for_each_token_is_applied_as_by_transformers(
    family: str, build_hf: Callable[..., Any], make_batch: Callable[..., dict[str, Tensor]]
) -> None:
    config = build_hf(family).config
    config.num_labels = 5
    hf = AutoModelForTokenClassification.from_config(config).double().eval()
    batch = make_batch([9, 20], family=family)
    words = {name: batch[name] for name in ("input_ids", "attention_mask")}
    if getattr(config, "type_vocab_size", 0) > 1:
        words["token_type_ids"] = batch["segment_ids"]
    real = batch["attention_mask"].bool()
    found, expected = LengthAdaptiveModel(hf)(batch), hf(**words).logits
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=0)
