"""Trainings of embeddings follow a teacher; what would learn labels is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from data.conftest import byte_level
from transformers import AutoTokenizer, BertConfig, BertModel

from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.stages import STAGES
from quala.workflow import StageContext


@pytest.mark.parametrize(
    ("stage", "changes", "sentence"),
    [
        ("finetune", {}, "`enabled` must be false, got True"),
        ("length_adapt", {"teacher": 1.0}, "`hard` must be 0, got 1"),
        ("length_adapt", {"teacher": 1.0, "hard": 0.0}, "`sub_hard` must be 0, got 0.3"),
        ("quantize", {"method": "qat"}, "`hard` must be 0, got 0.5"),
        ("distill", {}, "`hard` must be 0, got 0.5"),
        ("distill", {"hard": 0.0, "width": 0.5}, "`width` must be 1, got 0.5"),
        ("quantize", {"method": "ptq"}, None),
        ("length_adapt", {"teacher": 1.0, "hard": 0.0, "sub_hard": 0.0}, None),
        ("distill", {"hard": 0.0}, None),
    ],
)
def test_labels_are_not_learned(
    stage: str, changes: dict[str, Any], sentence: str | None, configure: Any
) -> None:
    config = configure(stage, **changes)
    data = SimpleNamespace(value=SimpleNamespace(task="embed"))
    if sentence is None:
        config.check_inputs({"data": data})
    else:
        with pytest.raises(QualaError, match=sentence):
            config.check_inputs({"data": data})
    config.check_inputs({"data": SimpleNamespace(value=SimpleNamespace(task="glue"))})


def encoder(folder: Path, tokenizer: Any, width: int) -> Path:
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(width)
        BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_encoder_of_other_tokens_and_width_gives_the_vectors_of_texts(
    tiny_tokenizer_folder: Path, tmp_path: Path, configure: Any
) -> None:
    rows = [
        {"sentence1": f"über {n} one", "sentence2": "in " * n, "label": n / 4} for n in range(1, 9)
    ]
    for name in ("train", "validation"):
        lines = [json.dumps(one | {"sentence1": f"{name} {one['sentence1']}"}) for one in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    data = DataSpec(
        task="embed", path=str(tmp_path), max_length=32, search_size=2, selection_size=2
    )
    student = encoder(
        tmp_path / "student", AutoTokenizer.from_pretrained(tiny_tokenizer_folder), 16
    )
    tokenizer = byte_level()
    teacher = encoder(tmp_path / "teacher", tokenizer, 24)
    options = {"hard": 0.0, "soft": 1.0, "relation": 0.0, "layers": None, "epochs": 1}

    def run(name: str, *teachers: Path) -> StageContext:
        context = StageContext.alone("distill", tmp_path / name)
        config = configure("distill", **options, teachers=list(map(str, teachers)))
        inputs = {"data": data, "model": student, "teacher": teacher}
        STAGES["distill"].function()(config, context, inputs)
        return context

    run("out")
    stored = np.load(tmp_path / "out/scratch/teachers/logits.npy")
    kept = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])
    hf = BertModel.from_pretrained(teacher).eval()
    ids = [
        tokenizer(kept[key], return_tensors="pt")["input_ids"] for key in kept if key != "label"
    ]
    with torch.no_grad():
        states = [hf(input_ids=one).last_hidden_state.mean(1)[0].numpy() for one in ids]
    expected = np.stack([one / np.linalg.norm(one) for one in states])
    place = int(np.argmin(abs(stored - expected[0]).sum(axis=1)))
    assert place % 2 == 0
    np.testing.assert_allclose(stored[place : place + 2], expected, atol=1e-5)
    with pytest.raises(QualaError, match="needs one width, got 16, 24"):
        run("mixed", teacher, student)
