"""A tagger of other tokens teaches by words."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.conftest import byte_level

from quala.checkpoint import load_with_data
from quala.data.spec import DataSpec
from quala.plugins import TASKS
from quala.stages import STAGES
from quala.stages.teacher_answers import UNTAUGHT
from quala.workflow import StageContext

KIND = "token-classification"
pytestmark = pytest.mark.skipif(KIND not in TASKS.names, reason="no task with tags")
NAMES = ["O", "B-A", "B-B"]


@pytest.fixture
def tagged(tmp_path: Path) -> DataSpec:
    """Sentences with accents in which one word is an entity."""
    draw = random.Random(0)
    for name, count in (("train", 30), ("validation", 8)):
        lines = []
        for number in range(count):
            words = [*draw.choices(("the", "über", "and", "in"), k=draw.randint(2, 20))]
            words[number % len(words)] = draw.choice(("first", "three"))
            tags = ["B-A" if one == "first" else "B-B" if one == "three" else "O" for one in words]
            lines.append(json.dumps({"tokens": words, "tags": tags}))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return DataSpec(
        task="tags", path=str(tmp_path), max_length=32, doc_stride=8, search_size=4,
        selection_size=4,
    )  # fmt: skip


def tagger(folder: Path, tokenizer: Any, names: list[str]) -> Path:
    from transformers import BertConfig, BertForTokenClassification

    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=128, id2label=dict(enumerate(names)),
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(len(tokenizer))
        BertForTokenClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_tags_go_from_first_token_to_first_token(
    tagged: DataSpec, tiny_tokenizer_folder: Path, tmp_path: Path, configure: Any
) -> None:
    from transformers import AutoTokenizer

    student = tagger(
        tmp_path / "student", AutoTokenizer.from_pretrained(tiny_tokenizer_folder), NAMES
    )
    teacher = tagger(tmp_path / "teacher", byte_level(), NAMES[::-1])
    config = configure(
        "distill", hard=0.0, soft=1.0, relation=0.0, layers=None, epochs=1,
        teachers=[str(teacher)],
    )  # fmt: skip
    context = StageContext.alone("distill", tmp_path / "out")
    STAGES["distill"].function()(config, context, {"data": tagged, "teacher": student})
    stored = np.load(tmp_path / "out/scratch/teachers/logits.npy")
    train: Any = load_with_data(student, tagged).data.train
    firsts = train.features.words >= 0
    assert (stored[~firsts] == UNTAUGHT).all()
    np.testing.assert_allclose(np.exp(stored[firsts]).sum(axis=1), 1, atol=1e-5)
    # The first word of the first sentence, asked of the model itself.
    from transformers import AutoModelForTokenClassification

    tokenizer = AutoTokenizer.from_pretrained(teacher)
    hf = AutoModelForTokenClassification.from_pretrained(teacher).eval()
    whole = tokenizer(" ".join(train.examples[0].words))["input_ids"]
    limit = [*whole[:31], whole[-1]] if len(whole) > 32 else whole
    with torch.no_grad():
        said = hf(input_ids=torch.tensor([limit])).logits[0, 1].softmax(-1)
    place = int(np.flatnonzero(firsts)[0])
    np.testing.assert_allclose(np.exp(stored[place]), said.flip(0), rtol=1e-4)
