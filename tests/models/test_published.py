"""Folders as embedding models are published: bare encoders of known families, and others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import Build, BuildHf, MakeBatch
from transformers import AutoModel

from quala.cost import architecture_of
from quala.data.task import Classes, Span, Task, Value
from quala.errors import QualaError
from quala.graph.encoder import build_graph
from quala.lengths import LengthConfig
from quala.models.load import load_model, read_config

Edit = Callable[[dict[str, Any]], None]
BESIDE = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.models.Pooling",
        },
    ],
    "config_sentence_transformers.json": {"__version__": {"sentence_transformers": "2.2.2"}},
    "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": True},
    "1_Pooling/config.json": {"word_embedding_dimension": 16, "pooling_mode_cls_token": True},
}
"""What sentence-transformers writes beside a model."""
FACTS: dict[str, dict[str, Any]] = {
    "bge": {  # BAAI/bge-base-en-v1.5
        "_name_or_path": "/root/.cache/torch/sentence_transformers/BAAI_bge-base-en/",
        "architectures": ["BertModel"], "model_type": "bert", "gradient_checkpointing": False,
        "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0},
        "position_embedding_type": "absolute", "torch_dtype": "float32", "use_cache": True,
    },
    "gte": {  # thenlper/gte-base
        "_name_or_path": "bert-base-uncased", "architectures": ["BertModel"],
        "model_type": "bert", "torch_dtype": "float16",
    },
    "e5": {  # intfloat/multilingual-e5-base
        "architectures": ["XLMRobertaModel"], "model_type": "xlm-roberta",
        "position_embedding_type": "absolute", "output_past": True, "type_vocab_size": 1,
    },
}  # fmt: skip


def publish(folder: Path, name: str, build_hf: BuildHf) -> Any:
    """Write a toy of a published model, and return its encoder."""
    facts = FACTS[name]
    family = facts["model_type"]
    encoder: Any = AutoModel.from_config(build_hf(family).config).float().eval()
    encoder.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    places = {"embeddings.position_ids": torch.arange(34)[None]} if name == "bge" else {}
    save_file(tensors | places, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | facts))
    for file, text in BESIDE.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(json.dumps(text))
    return encoder


@pytest.mark.parametrize("task", [Span(), Classes(3), Value()], ids=lambda task: task.kind)
@pytest.mark.parametrize("name", FACTS)
def test_an_embedding_model_is_fine_tuned_and_exported(
    name: str, task: Task, build_hf: BuildHf, make_batch: MakeBatch, tmp_path: Path
) -> None:
    encoder = publish(tmp_path, name, build_hf)
    with pytest.raises(QualaError, match=f"has no head for {task.kind}"):
        load_model(tmp_path, task=task)
    model = load_model(tmp_path, task=task, head="or_new")
    batch = make_batch([9, 20], family=encoder.config.model_type)
    words = {key: batch[key] for key in ("input_ids", "attention_mask")}
    if model.arch.type_vocabulary > 1:
        words["token_type_ids"] = batch["segment_ids"]
    real = batch["attention_mask"].bool()
    states = encoder(**words).last_hidden_state
    torch.testing.assert_close(
        model.trace(batch).hidden[-1][real], states[real], atol=1e-5, rtol=0
    )
    graph = build_graph(model, sequence_length=32).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    lengths = LengthConfig((24, 12, 6), 32)
    feeds = {key: values.numpy() for key, values in batch.items()}
    found = session.run(None, feeds | {"lengths": np.array(lengths.lengths)})[0]
    expected = model(batch, lengths).detach().numpy()
    kept = real.numpy() if task.per_token else ...
    np.testing.assert_allclose(found[kept], expected[kept], atol=1e-4)


def test_camembert_is_roberta(build: Build, build_hf: BuildHf, make_batch: MakeBatch) -> None:
    french, batch = build("camembert"), make_batch([9, 20], family="camembert")
    plain = build("roberta")
    state = french.hf.state_dict()
    plain.hf.load_state_dict(state)
    torch.testing.assert_close(french(batch), plain(batch), atol=0, rtol=0)
    assert architecture_of(french.hf.config.to_dict()).longest == 32


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (  # Alibaba-NLP/gte-base-en-v1.5
            {
                "model_type": "new",
                "architectures": ["NewModel"],
                "auto_map": {"AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig"},
            },
            "comes with code of its own, which quala does not run; supported types: bert, ",
        ),
        ({"model_type": "nomic_bert"}, "Unknown `model_type` `nomic_bert`. Allowed: "),
        ({"model_type": "xlm-roberta-xl"}, "Unknown `model_type` `xlm-roberta-xl`. Did you mean"),
        ({"model_type": "bert", "position_embedding_type": "rotary"}, "must be `absolute`"),
    ],
)
def test_other_embedding_models_are_refused(
    facts: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(facts))
    with pytest.raises(QualaError, match=sentence) as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value)
