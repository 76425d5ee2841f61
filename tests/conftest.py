"""Fixtures shared by all rooms: a toy checkpoint, and figures that are made up.

Heavy libraries are imported inside the fixtures, so that light tests stay light.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest_plugins = ["staged", "made_up"]

# Before any test imports torch: one thread is fastest at toy sizes, and repeatable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A store of the person who runs the tests is not theirs.
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
    os.environ.pop(name, None)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CHARACTERS = [chr(code) for code in range(33, 127)]


@pytest.fixture(scope="session")
def tiny_vocabulary() -> list[str]:
    """Characters, their continuations, and the frequent words of the demo set."""
    import re
    from collections import Counter

    from quala.data.demo import demo_examples

    train, _ = demo_examples()
    texts = sorted({text for example in train for text in (example.context, example.question)})
    counts = Counter(word for text in texts for word in re.findall(r"[a-z]+", text.lower()))
    words = [word for word, _ in counts.most_common(600) if len(word) > 1]
    return [*SPECIAL, *CHARACTERS, *(f"##{one}" for one in CHARACTERS), *words]


@pytest.fixture(scope="session")
def tiny_tokenizer_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_vocabulary: list[str]
) -> Path:
    """A folder with a lower-casing WordPiece tokenizer that spells what it does not know."""
    from transformers import BertTokenizer

    folder = tmp_path_factory.mktemp("tiny-tokenizer")
    vocabulary = {word: number for number, word in enumerate(tiny_vocabulary)}
    BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=128).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path) -> Path:
    """A Hugging Face folder: random BERT with a span head, 2 layers of width 32, 128 positions."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    folder = tmp_path_factory.mktemp("tiny-bert")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForQuestionAnswering(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; tests copy it, which saves them the migrations."""
    from quala.workflow.database import ensure_database

    folder = tmp_path_factory.mktemp("mlflow")
    database = folder / "mlflow.db"
    ensure_database(database, folder / "artifacts")
    return database
