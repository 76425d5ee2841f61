from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertForQuestionAnswering,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    ElectraConfig,
    ElectraForQuestionAnswering,
    GPT2Config,
    GPT2Model,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from quala.architecture import ELASTIC
from quala.compress.structure import keep_layers
from quala.errors import QualaError

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
}

LAST = "bert.encoder.layer.{}.output.dense.weight"


def _family(name: str) -> tuple[PreTrainedModel, str]:
    torch.manual_seed(0)
    if name == "distilbert":
        config = DistilBertConfig(
            vocab_size=50, dim=16, n_layers=4, n_heads=2, hidden_dim=32, max_position_embeddings=16
        )
        return DistilBertForQuestionAnswering(config), "distilbert.transformer.layer"
    if name == "electra":
        electra = ElectraConfig(**SIZES, embedding_size=8)
        return ElectraForQuestionAnswering(electra), "electra.encoder.layer"
    roberta = RobertaForSequenceClassification(RobertaConfig(**SIZES))
    return roberta, "roberta.encoder.layer"


@pytest.mark.parametrize("name", ["distilbert", "electra", "roberta"])
def test_the_kept_layers_and_all_else_are_copied(name: str) -> None:
    model, stack = _family(name)
    small, before = keep_layers(model, [1, 3]), model.state_dict()
    for key, value in small.state_dict().items():
        old = key
        for new, kept in ((0, 1), (1, 3)):
            if key.startswith(f"{stack}.{new}."):
                old = key.replace(f"{stack}.{new}.", f"{stack}.{kept}.", 1)
        assert torch.equal(value, before[old])
    assert small.config.num_hidden_layers == 2
    assert model.config.num_hidden_layers == 4


@pytest.mark.parametrize("name", ["distilbert", "electra", "roberta"])
def test_a_reduced_model_is_a_plain_folder(name: str, tmp_path: Path) -> None:
    small = keep_layers(_family(name)[0], [0, 2]).eval()
    small.save_pretrained(tmp_path)
    loaded = type(small).from_pretrained(tmp_path).eval()
    ids = torch.tensor([[4, 5, 6, 7]])
    assert torch.allclose(loaded(input_ids=ids)[0], small(input_ids=ids)[0], atol=1e-6)


def test_keeping_all_layers_changes_nothing(
    bert: BertForQuestionAnswering, inputs: dict[str, Tensor]
) -> None:
    same = keep_layers(bert, [0, 1])
    assert torch.equal(same(**inputs).start_logits, bert(**inputs).start_logits)


def test_a_reduced_model_shares_no_weight(bert: BertForQuestionAnswering) -> None:
    small = keep_layers(bert, [1])
    with torch.no_grad():
        small.get_parameter(LAST.format(0)).zero_()
    assert bert.get_parameter(LAST.format(1)).abs().sum() > 0


@pytest.mark.parametrize("layers", [[], [1, 0], [0, 0], [2], [-1]])
def test_layers_that_do_not_rise_within_the_model_are_refused(
    bert: BertForQuestionAnswering, layers: list[int]
) -> None:
    with pytest.raises(QualaError, match="rise"):
        keep_layers(bert, layers)


def test_another_kind_of_model_is_refused() -> None:
    gpt = GPT2Model(GPT2Config(vocab_size=10, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(QualaError, match="Unknown `model_type` `gpt2`"):
        keep_layers(gpt, [0])


def test_the_sub_networks_of_the_whole_model_are_not_those_of_the_copy() -> None:
    hf, _ = _family("roberta")
    setattr(hf.config, ELASTIC, ["", "1x16"])
    for layers in ([0, 2], [0, 1, 2, 3]):
        assert not hasattr(keep_layers(hf, layers).config, ELASTIC)
    assert hasattr(hf.config, ELASTIC)
