"""Opening what earlier stages left, and scoring it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    PreTrainedModel,
    RobertaConfig,
    RobertaForQuestionAnswering,
)

from quala.checkpoint import load_with_data, metadata, padding, predict, score_slice, set_dropout
from quala.data.spec import DataSpec
from quala.errors import QualaError


def test_a_plain_folder_opens_with_the_defaults(tiny_checkpoint: Path, spec: DataSpec) -> None:
    opened = load_with_data(tiny_checkpoint, spec)
    assert opened.precision == "fp32"
    assert (opened.model.significance.name, opened.model.semantics) == ("question", "natural")
    assert opened.pad_to is None


def test_a_home_folder_opens_with_its_card(
    integer: Path, spec: DataSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(integer.parent))
    assert load_with_data(f"~/{integer.name}", spec).precision == "int8"


def test_an_integer_folder_opens_as_what_it_is(integer: Path, spec: DataSpec) -> None:
    opened = load_with_data(integer, spec)
    assert opened.precision == "int8"
    assert opened.model.significance.name == "span"


def test_a_pruned_and_factorized_folder_opens_as_what_it_is(
    tiny_checkpoint: Path, tmp_path: Path, spec: DataSpec
) -> None:
    from quala.compress.prune.structured import keep_units
    from quala.compress.shrink import factorize
    from quala.compress.structure import structure_of
    from quala.models.adaptive import LengthAdaptiveModel
    from quala.models.load import save_model

    opened = load_with_data(tiny_checkpoint, spec)
    small = keep_units(opened.model.hf, heads=[[1], [0, 1]])
    small = factorize(small, 2.0)
    save_model(LengthAdaptiveModel(small), opened.tokenizer, tmp_path, metadata=metadata(opened))
    again = load_with_data(tmp_path, spec)
    assert [layer.heads for layer in again.model.arch.sizes] == [1, 2]
    assert again.model.arch.embedding_rank == structure_of(small).embedding_rank > 0
    state = small.state_dict()
    assert all(torch.equal(v, state[name]) for name, v in again.model.hf.state_dict().items())


def test_a_checkpoint_keeps_what_its_card_says(
    tiny_checkpoint: Path, tmp_path: Path, spec: DataSpec
) -> None:
    from quala.models.load import save_model

    padded = load_with_data(
        tiny_checkpoint, spec, significance="column_sum", semantics="reference"
    )
    facts = metadata(padded)
    assert facts["sequence_length"] == 128
    save_model(padded.model, padded.tokenizer, tmp_path, metadata=facts)
    again = load_with_data(tmp_path, spec)
    assert metadata(again) == facts
    assert load_with_data(tmp_path, spec, semantics="natural").pad_to is None


def test_reference_semantics_read_padded_inputs(tiny_checkpoint: Path, spec: DataSpec) -> None:
    opened = load_with_data(
        tiny_checkpoint, spec, significance="column_sum", semantics="reference"
    )
    assert opened.pad_to == 128
    assert set(score_slice(opened, opened.data.selection, batch_size=4)) >= {"f1"}


@pytest.mark.parametrize(
    ("pad_to_max", "semantics", "expected"),
    [(False, "natural", None), (True, "natural", 128), (False, "reference", 128)],
)
def test_padding(spec: DataSpec, pad_to_max: bool, semantics: str, expected: int | None) -> None:
    assert padding(replace(spec, pad_to_max=pad_to_max), semantics) == expected


@pytest.mark.parametrize("folder", ["supernet", "integer"])
def test_a_checkpoint_of_another_task_is_refused(
    request: pytest.FixtureRequest, folder: str, sentences: DataSpec
) -> None:
    with pytest.raises(QualaError, match="trained for question-answering with 2 outputs, the"):
        load_with_data(request.getfixturevalue(folder), sentences)


def test_a_missing_head_is_drawn_from_the_seed(tiny_checkpoint: Path, sentences: DataSpec) -> None:
    opened = [
        load_with_data(tiny_checkpoint, sentences, head="or_new", seed=seed) for seed in (1, 1, 2)
    ]
    heads: list[Any] = [one.model.hf.classifier.weight for one in opened]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_predictions_do_not_depend_on_the_batches(tiny_checkpoint: Path, spec: DataSpec) -> None:
    opened = load_with_data(tiny_checkpoint, spec)
    features = opened.data.selection.features
    one, many = (
        predict(opened.model, features, batch_size=size, pad_to=pad_to)
        for size, pad_to in ((1, None), (5, 128))
    )
    assert [len(logits) for logits in one] == features.lengths.tolist()
    for first, second in zip(one, many):
        np.testing.assert_allclose(first, second, atol=1e-5)


SIZES: dict[str, Any] = {"vocab_size": 50, "max_position_embeddings": 20}
BERT_SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 16, **SIZES}  # fmt: skip
FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertForQuestionAnswering(BertConfig(**BERT_SIZES)),
    "roberta": lambda: RobertaForQuestionAnswering(RobertaConfig(**BERT_SIZES)),
    "distilbert": lambda: DistilBertForQuestionAnswering(
        DistilBertConfig(dim=8, hidden_dim=16, n_layers=1, n_heads=2, **SIZES)
    ),
}


def rates(model: PreTrainedModel) -> dict[str, float]:
    modules = model.named_modules()
    return {name: module.p for name, module in modules if isinstance(module, torch.nn.Dropout)}


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_rates_are_told_apart(family: str) -> None:
    model = FAMILIES[family]()
    set_dropout(model, hidden=0.3, attention=0.7)
    found = rates(model)
    assert sorted(found.values()).count(0.7) == 1
    assert set(found.values()) == {0.3, 0.7}
    (attention,) = [name for name, rate in found.items() if rate == 0.7]
    assert attention.endswith(("attention.self.dropout", "attention.dropout"))
    assert {0.3, 0.7} <= {
        value for value in model.config.to_dict().values() if value in (0.3, 0.7)
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rate_that_is_none_stays(family: str) -> None:
    model = FAMILIES[family]()
    before = rates(model)
    set_dropout(model, hidden=None, attention=None)
    assert rates(model) == before
