"""Plain transformers opens a folder of quala with the right outputs, or refuses it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import BuildHf, MakeBatch
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from quala.checkpoint import load_any_model
from quala.compress.experts import ExpertsConfig, cut_experts, route_tables
from quala.compress.kernels import replace_kernels
from quala.compress.prune.sparse import store_sparse
from quala.compress.prune.structured import keep_units
from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.files import save_integer
from quala.compress.quantize.integer import to_integer
from quala.compress.quantize.split import split_ternary
from quala.compress.quantize.transform import calibrate, quantize
from quala.compress.shrink import factorize
from quala.compress.structure import keep_layers, record_structure
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import METADATA_FORMAT, model_facts, save_model

Change = Callable[[PreTrainedModel], PreTrainedModel]
NEURONS = [range(16)] * 3


def elastic(hf: PreTrainedModel) -> PreTrainedModel:
    hf.config.quala_elastic = ["", "2x16"]
    return hf


def routed(hf: PreTrainedModel) -> PreTrainedModel:
    import numpy as np

    config = ExpertsConfig(count=3, size=0.25, shared=0.5)
    tables = route_tables(config, layers=3, seed=0, counts=np.ones(hf.config.vocab_size, np.int64))
    scores = torch.arange(96.0).reshape(3, 32)
    return cut_experts(hf, config, scores=list(scores), tables=tables)


def with_kernels(hf: PreTrainedModel) -> PreTrainedModel:
    replace_kernels(hf, ["layernorm"])
    return hf


def zeroed(hf: PreTrainedModel) -> PreTrainedModel:
    hf.bert.embeddings.word_embeddings.weight.data[:, 2:] = 0  # type: ignore[union-attr, operator, index]
    return hf


RIGHT: dict[str, Change] = {
    "as it was": lambda hf: hf,
    "fewer layers": lambda hf: keep_layers(hf, [0, 2]),
    "narrower": lambda hf: keep_units(hf, heads=None, neurons=NEURONS),
    "elastic": elastic,
}
REFUSED: dict[str, Change] = {
    "fewer heads": lambda hf: keep_units(hf, heads=[[0, 2], [3], [0, 1, 2, 3]], neurons=NEURONS),
    "low rank": lambda hf: factorize(hf, 1.5),
    "experts": routed,
    "kernels": with_kernels,
    "zeros left out": zeroed,
}
AUTOS: list[Any] = [
    AutoModel, AutoModelForQuestionAnswering, AutoModelForSequenceClassification,
]  # fmt: skip


def save(hf: PreTrainedModel, folder: Path, tokenizer: Path) -> None:
    model = LengthAdaptiveModel(hf)
    save_model(model, AutoTokenizer.from_pretrained(tokenizer), folder, metadata={})
    store_sparse(folder)


@pytest.mark.parametrize("kind", RIGHT)
def test_what_transformers_can_hold_answers_as_it_does_here(
    kind: str,
    build_hf: BuildHf,
    make_batch: MakeBatch,
    tmp_path: Path,
    tiny_tokenizer_folder: Path,
) -> None:
    save(RIGHT[kind](build_hf().float()), tmp_path, tiny_tokenizer_folder)
    batch = make_batch([9, 20])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    inputs["token_type_ids"] = batch["segment_ids"]
    plain: Any = AutoModelForQuestionAnswering.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.inference_mode():
        theirs, ours = plain.eval()(**inputs), load_any_model(tmp_path)(batch)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(theirs.start_logits[real], ours[..., 0][real])


@pytest.mark.parametrize("auto", AUTOS)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_transformers_cannot_hold_is_not_loaded(
    kind: str, auto: Any, build_hf: BuildHf, tmp_path: Path, tiny_tokenizer_folder: Path
) -> None:
    save(REFUSED[kind](build_hf().float()), tmp_path, tiny_tokenizer_folder)
    load_any_model(tmp_path)
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        auto.from_pretrained(tmp_path)


@pytest.mark.parametrize("auto", AUTOS)
@pytest.mark.parametrize("split", [False, True])
def test_an_integer_folder_is_not_loaded(
    split: bool, auto: Any, build_hf: BuildHf, make_batch: MakeBatch, tmp_path: Path
) -> None:
    model, batch = LengthAdaptiveModel(build_hf().float()), make_batch([9, 20])
    ternary: dict[str, Any] = {"weight_bits": 2, "weight_quantizer": "twn"} if split else {}
    quantize(model.hf, QuantizeConfig(**ternary))
    if split:
        split_ternary(model.hf)
        record_structure(model.hf)
    calibrate(model.hf, lambda: model(batch))
    to_integer(model.hf, inplace=True)
    save_integer(model.hf, tmp_path, {"format": METADATA_FORMAT, **model_facts(model, 34)})
    load_any_model(tmp_path)
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        auto.from_pretrained(tmp_path)


@pytest.mark.parametrize("auto", AUTOS)
def test_an_export_is_not_loaded(auto: Any, export_folder: Path) -> None:
    with pytest.raises((OSError, ValueError), match=r"model_type|no file named model"):
        auto.from_pretrained(export_folder)
