"""Exported toy models: one that answers, and those for texts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

if TYPE_CHECKING:
    from quala.lengths import LengthConfig
    from quala.runtime.engine import Inputs, Kept


@pytest.fixture(scope="session")
def export_folder(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The tiny checkpoint as an int8 export: the full length and two cheaper points, timed."""
    from quala.checkpoint import load_with_data
    from quala.compress.quantize.config import QuantizeConfig
    from quala.compress.quantize.integer import to_integer
    from quala.compress.quantize.transform import calibrate, quantize
    from quala.data.spec import DataSpec
    from quala.export.folder import ExportSettings, write_export
    from quala.lengths import LengthConfig
    from quala.runtime.card import Point

    spec = DataSpec(task="squad", name="demo", max_length=128, doc_stride=32)
    opened = load_with_data(tiny_checkpoint, spec, significance="span")
    batch = opened.data.test.features.batch(range(8))

    def observe() -> None:
        opened.model(batch)

    quantize(opened.model.hf, QuantizeConfig())
    calibrate(opened.model.hf, observe)
    to_integer(opened.model.hf, inplace=True)
    front = [
        Point(LengthConfig(lengths, 128), score, padded, mean)
        for lengths, score, padded, mean in (
            ((128, 128), 80.0, 4_000_000, 2e6),
            ((128, 40), 79.0, 3_000_000, 1.5e6),
            ((60, 20), 60.0, 2_000_000, 1e6),
        )
    ]
    folder = tmp_path_factory.mktemp("export") / "tiny"
    settings = ExportSettings(windows=spec.windows, name="tiny", repeats=1)
    write_export(opened.model, opened.tokenizer, folder, front=front, settings=settings)
    return folder


LABELS = ("bad", "fair", "good")
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
ExportOf = Callable[[str], Path]


@pytest.fixture(scope="session")
def export_of(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path) -> ExportOf:
    """Return a maker of float exports of random models for texts, by the kind of task.

    Each has the full length and a cheaper point, which are timed by made-up figures.
    """

    @cache
    def export(kind: str) -> Path:
        import torch
        import transformers
        from transformers import AutoTokenizer, BertConfig

        from quala.data.spec import Windows
        from quala.data.task import Classes, Task, Value
        from quala.data.task_embed import Embedding
        from quala.data.task_tags import Tags
        from quala.export.folder import ExportSettings, write_export
        from quala.lengths import LengthConfig
        from quala.models.adaptive import LengthAdaptiveModel
        from quala.runtime.card import Point

        tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
        tasks: list[Task] = [Classes(3, names=LABELS), Value(), Embedding(), Tags(5, names=TAGS)]
        (task,) = (one for one in tasks if one.kind == kind)
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=64, max_position_embeddings=64, num_labels=task.num_labels,
            initializer_range=0.4,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(0)
            hf = getattr(transformers, task.auto_class).from_config(config).eval()
        front = [
            Point(LengthConfig(lengths, 64), score, padded, mean, ms={16: ms, 64: 4 * ms})
            for lengths, score, padded, mean, ms in (
                ((64, 64), 80.0, 4_000_000, 2e6, 2.0),
                ((40, 20), 70.0, 2_000_000, 1e6, 1.0),
            )
        ]
        folder = tmp_path_factory.mktemp("text-export") / kind
        windows = Windows(max_length=64, doc_stride=16, max_question_length=16)
        settings = ExportSettings(windows=windows, name=f"toy {kind}", repeats=0)
        model = LengthAdaptiveModel(hf, task=task)
        write_export(model, tokenizer, folder, front=front, settings=settings)
        return folder

    return export


class FakeEngine:
    """Gives what a function of the ids gives, and keeps every token."""

    name = "fake"

    def __init__(self, outputs: Callable[[NDArray[np.int64]], Any]) -> None:
        self._outputs = outputs

    def logits(self, inputs: Inputs, lengths: LengthConfig | None) -> NDArray[np.float32]:
        return np.asarray(self._outputs(inputs["input_ids"]), dtype=np.float32)

    def survivors(self, inputs: Inputs, lengths: LengthConfig) -> tuple[NDArray[np.float32], Kept]:
        return self.logits(inputs, lengths), {}
